import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.inspection.image_scores import read_image_counts
from antvisionps.report.score_tables import per_image_schema

SCHEMA = per_image_schema(text_ids=False)

ROWS = [("e_ups", 7, 1, 2, 0, 1, 1.5), ("e_ups", 7, 3, 0, 1, 0, 0.0), ("e_ups", 9, 1, 1, 0, 0, 0.75)]


def write(path, rows):
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def test_counts_are_by_system_and_image(tmp_path):
    path = tmp_path / "per_image.parquet"
    assert read_image_counts(path, system="e_ups") is None
    write(path, [*ROWS, ("fusion", 7, 1, 5, 5, 5, 0.5)])
    counts = read_image_counts(path, system="e_ups")
    assert list(counts) == [7, 9]
    np.testing.assert_array_equal(counts[7].category_ids, [1, 3])
    np.testing.assert_array_equal(counts[7].tp, [2, 0])
    assert read_image_counts(path, system="mine") is None


@pytest.mark.parametrize(
    "row",
    [
        ("e_ups", 9, 1, -1, 0, 0, 0.0),
        ("e_ups", 9, 1, 1, 0, 0, 1.5),
        ("e_ups", 9, 1, 1, 0, 0, float("nan")),
        ("e_ups", 9, 1, 1, 0, 0, -0.5),
        ("e_ups", 9, 1, 1, 0, None, 0.5),
        ("e_ups", 7, 3, 0, 1, 0, 0.0),
        (None, 9, 1, 1, 0, 0, 0.5),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path, row):
    path = tmp_path / "per_image.parquet"
    write(path, [*ROWS[:2], row])
    with pytest.raises(CacheError, match=rf"^{path}: [^\n]*; run `dvc repro score`$"):
        read_image_counts(path, system="e_ups")
    write(path, [*ROWS, ROWS[0]])
    with pytest.raises(CacheError, match="an image that stands twice"):
        read_image_counts(path, system="e_ups")
