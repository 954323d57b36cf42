"""Tables built without pandas are those that Arrow builds itself."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from antvisionps.core.arrow_tables import arrow_table, numbers_of

SCHEMA = pa.schema(
    [("id", pa.int64()), ("area", pa.int32()), ("score", pa.float32()), ("iou", pa.float64()), ("end", pa.string())]
)
FILLED = ([1, -(2**40), 3], [7, None, 2**31 - 1], [0.1, None, None], [1e-300, 0.1, float("inf")], ["a", "", "空 \0"])


@pytest.mark.parametrize("columns", [FILLED, tuple([] for _ in SCHEMA)], ids=["filled", "empty"])
def test_columns_are_those_of_arrow(columns):
    got = arrow_table(columns, SCHEMA)
    got.validate(full=True)
    expected = pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    assert got.equals(expected)
    assert got.schema.equals(SCHEMA, check_metadata=True)


def test_masked_and_strided_arrays_of_numpy_are_taken_too():
    schema = pa.schema([("n", pa.int32()), ("x", pa.float32()), ("all", pa.int32())])
    numbers = np.arange(40, dtype=np.int64)[::2]
    x = np.where(numbers % 3, numbers, np.nan).astype(np.float32)
    columns = (np.ma.masked_equal(numbers, 4), np.ma.masked_invalid(x), np.ma.masked_array(numbers, mask=True))
    got = arrow_table(columns, schema)
    got.validate(full=True)
    assert got["n"].to_pylist() == [None if n == 4 else n for n in range(0, 40, 2)]
    assert got["x"].to_pylist() == [n if n % 3 else None for n in range(0, 40, 2)]
    assert got["all"].null_count == len(numbers)


@pytest.mark.parametrize(
    "values", [[1, None, 3, None] * 5, [4] * 9, [None] * 3, []], ids=["some", "no", "all", "empty"]
)
def test_numbers_come_back_with_nulls_masked_from_any_slice_and_chunks(values):
    column = pa.chunked_array([pa.array(values, pa.int32()), pa.array(values[::-1], pa.int32())])
    for start in (0, 1, 9, len(values)):
        found = numbers_of(column[start:])
        assert found.tolist() == (values + values[::-1])[start:]
        assert (found.dtype, len(found.mask)) == (np.int32, len(found))


def test_pandas_is_not_imported():
    code = (
        "import sys, numpy as np, pyarrow as pa\n"
        "from antvisionps.core.arrow_tables import arrow_table, numbers_of\n"
        "schema = pa.schema([('n', pa.int32()), ('end', pa.string())])\n"
        "numbers_of(arrow_table([np.ma.masked_equal(np.arange(3), 1), ['a', 'b', 'c']], schema)['n'])\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
