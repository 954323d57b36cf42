"""What other programs find in semantic.parquet, and what is decoded to read an image."""

import io

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from antvisionps.predictions.schema import SEMANTIC_SCHEMA, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from tests.drawing import category_set

CATEGORIES = category_set({3: "cat", 7: "dog"}, {9: "sky"})
PLANES = {
    # Of sky and of cat; the cells are: sky, both, both alike, nobody's.
    2: np.array([[[9, 5, 5, 0]], [[2, 8, 5, 0]]], np.uint8),
    5: np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
}


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "semantic.parquet", PLANES)


def write(path, planes_of_image):
    with SemanticWriter(path, CacheHeader("e_ups", "val", "f", CATEGORIES, "w")) as cache:
        for image_id, planes in planes_of_image.items():
            category_ids = np.array([9, 3], np.int32)
            cache.write(ImageSemantics(image_id, 480, 640, *planes.shape[1:], 1.0, category_ids, planes))
    return path


@pytest.mark.parametrize(
    "read_rows",
    [
        lambda path: pd.read_parquet(path).to_dict("records"),
        lambda path: duckdb.read_parquet(str(path)).df().to_dict("records"),
        lambda path: datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent)).to_list(),
    ],
)
def test_planes_open_with_numpy_from_what_other_programs_read(path, read_rows):
    rows = read_rows(path)
    assert [row["image_id"] for row in rows] == [*PLANES]
    for row in rows:
        shape = len(row["category_ids"]), row["grid_height"], row["grid_width"]
        np.testing.assert_array_equal(np.frombuffer(row["planes"], np.uint8).reshape(shape), PLANES[row["image_id"]])


def test_planes_are_compressed_by_parquet(path):
    column = pq.ParquetFile(path).metadata.row_group(0).column(SEMANTIC_SCHEMA.names.index("planes"))
    assert (column.compression, column.is_stats_set, column.has_dictionary_page) == ("LZ4", False, False)


def test_the_preview_shows_the_likeliest_category_of_each_cell_in_the_pages_colours(path):
    # The three first colours of report/site/colors.js, things' by vividness, then stuff's; cat is the lower class.
    cat, sky, nobody = (255, 119, 0), (0, 114, 178), (0, 0, 0)
    png = pq.read_table(path)["preview"][0].as_py()
    with Image.open(io.BytesIO(png)) as preview:
        assert (preview.format, preview.mode) == ("PNG", "P")
        np.testing.assert_array_equal(np.asarray(preview.convert("RGB")), np.array([[sky, cat, cat, nobody]]))


def test_hugging_face_shows_the_preview_as_an_image(path):
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent))
    assert rows.cast_column("preview", datasets.Image())[1]["preview"].size == (4, 3)


def test_a_row_group_of_large_images_is_bounded(tmp_path):
    """Images of 1.5 MiB: two a row group, as 4 MiB at most are decoded to read one."""
    planes = dict.fromkeys(range(5), np.zeros((2, 1024, 768), np.uint8))
    write(tmp_path / "a.parquet", planes)
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]


def test_probabilities_are_rounded_and_planes_without_any_left_out():
    probs = np.array([[[0.0, 0.001]], [[0.5, 0.2]], [[1.0, 0.998]]])
    image = ImageSemantics.from_probs(1, hw=(2, 4), input_hw=(2, 4), stride=2, category_ids=[3, 7, 9], probs=probs)
    assert image.category_ids.tolist() == [7, 9]
    assert image.planes.tolist() == [[[128, 51]], [[255, 254]]]
