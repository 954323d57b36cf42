"""Arrow tables from and to numpy without pandas, which Arrow's own ways import wherever it is installed: 0.3 s of a
stage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def arrow_table(columns: Sequence[Sequence[Any] | np.ndarray], schema: pa.Schema) -> pa.Table:
    """Columns of numbers or texts, in the order of the schema. None is null, and so is what a masked array masks."""
    arrays = [_column(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(values: Sequence[Any] | np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return _texts(values)
    numbers = values if isinstance(values, np.ndarray) else np.ma.masked_equal(np.array(values, dtype=object), None)
    is_null = np.ma.getmaskarray(numbers)
    data = np.ascontiguousarray(np.ma.filled(numbers, 0), dtype=kind.to_pandas_dtype())
    is_known = pa.py_buffer(np.packbits(~is_null, bitorder="little")) if is_null.any() else None
    return pa.Array.from_buffers(kind, len(data), [is_known, pa.py_buffer(data)])


def _texts(values: Sequence[str] | np.ndarray) -> pa.Array:
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def numbers_of(column: pa.ChunkedArray) -> np.ma.MaskedArray:
    """(rows,) of a column of numbers, masked where it is null."""
    array = column.combine_chunks()
    is_known, data = array.buffers()
    rows = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, dtype=array.type.to_pandas_dtype())[rows]
    is_null = np.zeros(len(values), dtype=bool)
    if is_known is not None:
        is_null = np.unpackbits(np.frombuffer(is_known, dtype=np.uint8), bitorder="little")[rows] == 0
    return np.ma.masked_array(values, mask=is_null)
