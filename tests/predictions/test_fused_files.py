import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import CacheError, DataError
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.fused_files import CANDIDATES, SEGMENTS, RowsByImage, open_fused


@pytest.fixture
def fused(done, tmp_path):
    """A copy of system fusion's folder, and the truth."""
    return shutil.copytree(done.fused / "fusion", tmp_path / "fusion"), open_split(done.prepared, "val")


def change(path, name, value, row=0):
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    column = table.schema.get_field_index(name)
    pq.write_table(
        table.set_column(column, table.schema.field(name), pa.array(values, table.schema.field(name).type)), path
    )


@pytest.mark.parametrize(
    ("table", "name", "value", "problem"),
    [
        (CANDIDATES, "score", 3e38, "score of a row is 3"),
        (CANDIDATES, "score", float("nan"), "score of a row is nan"),
        (CANDIDATES, "score", -0.5, "score of a row is -0.5"),
        (CANDIDATES, "area_px", -1, "area_px of a row is -1"),
        (CANDIDATES, "free_px", -7, "free_px of a row is -7"),
        (CANDIDATES, "instance", -2, "instance of a row is -2"),
        (CANDIDATES, "category_id", 999, "category_id of a row is 999"),
        (CANDIDATES, "image_id", 7, "image_id of a row is 7"),
        (CANDIDATES, "reason", "magic", "reason of a row is 'magic'"),
        (CANDIDATES, "reason", None, "a row has no reason"),
        (CANDIDATES, "end", "", "end of a row is ''"),
        (CANDIDATES, "end", None, "a row has no end"),
        (CANDIDATES, "area_px", None, "a row has no area_px"),
        (SEGMENTS, "segment_id", 77, "expected the segments of .*panoptic.json, got others"),
        (SEGMENTS, "area_px", 1, "expected the segments of"),
        (SEGMENTS, "category_id", None, "a row has no category_id"),
        (SEGMENTS, "probability", 1.5, "probability of a row is 1.5"),
        (SEGMENTS, "score", None, "expected a score of each thing, and of no stuff"),
    ],
)
def test_a_row_that_cannot_be_is_refused(fused, table, name, value, problem):
    folder, truth = fused
    path = folder / table.file_name
    maps = open_fused(folder, truth)
    things = np.isin(pq.read_table(path)["category_id"].to_numpy(), list(truth.categories.thing_ids))
    row = int(np.argmax(things))
    RowsByImage(folder, table, maps)
    change(path, name, value, row)
    with pytest.raises(CacheError, match=rf"^{path}: [^\n]*{problem}[^\n]*; run `dvc repro fuse`$"):
        RowsByImage(folder, table, maps)


def test_a_text_that_is_not_utf_8_is_refused(fused):
    folder, truth = fused
    path = folder / CANDIDATES.file_name
    table = pq.read_table(path)
    ends = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("end"), "end", ends), path)
    with pytest.raises(CacheError, match=f"{path}: damaged .*UTF8"):
        RowsByImage(folder, CANDIDATES, open_fused(folder, truth))


def test_maps_of_another_size_are_of_other_images(fused):
    folder, truth = fused
    path = folder / "panoptic.json"
    path.write_text(path.read_text().replace('"height":96,"width":128', '"height":128,"width":96', 1))
    with pytest.raises(DataError, match="expected the images of"):
        open_fused(folder, truth)
