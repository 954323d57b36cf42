import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from antvisionps.core.arrow import Labels, numbers_to_arrow, texts_to_arrow


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 13])
def test_numbers_are_what_arrow_makes_of_them(dtype, count):
    values = np.random.default_rng(count).integers(0, 99, (count, 2)).astype(dtype)[:, 0]
    is_missing = values < 50
    assert numbers_to_arrow(values).equals(pa.array(values))
    made = numbers_to_arrow(values, is_missing=is_missing)
    made.validate(full=True)
    assert made.equals(pa.array(values, mask=is_missing))


@pytest.mark.parametrize("texts", [[], [""], ["e_ups", "", "Fuß + 二", "e_ups"]])
def test_texts_are_what_arrow_makes_of_them(texts):
    made = texts_to_arrow(texts)
    made.validate(full=True)
    assert made.equals(pa.array(texts, pa.string()))


def test_pandas_is_not_imported():
    code = """
import sys, numpy, pyarrow
from antvisionps.core.arrow import numbers_to_arrow, texts_to_arrow
numbers = numbers_to_arrow(numpy.ones(3), is_missing=numpy.ones(3, dtype=bool))
pyarrow.table([numbers, texts_to_arrow("abc")], ["numbers", "texts"])
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_labels_are_texts_of_which_few_differ():
    parts = [["low_score", "e_ups", "low_score"], [], ["lwl_htc", "e_ups", "Fuß"]]
    labels = [Labels.of(texts) for texts in parts]
    joined = Labels.join([*labels, Labels(("of nobody", "e_ups"), np.array([1], dtype=np.int16))])
    texts = [*parts[0], *parts[2], "e_ups"]
    assert [joined[place] for place in range(len(joined))] == list(joined) == texts
    made = joined.to_arrow()
    made.validate(full=True)
    assert made.to_pylist() == texts
    assert len(set(joined.names)) == len(joined.names)
    assert len(Labels.join([Labels.of([])])) == 0
