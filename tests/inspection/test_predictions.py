import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from antvisionps.core.errors import CacheError
from antvisionps.inspection.predictions import open_predictions


@pytest.fixture(scope="module")
def folder(tiny_run):
    return tiny_run / "data" / "predictions" / "e_ups" / "val"


@pytest.fixture
def cache(folder):
    with open_predictions(folder) as cache:
        yield cache


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "cache")


def test_images_are_found_by_their_id_and_iterated_in_ascending_order(cache):
    assert len(cache) == 4
    assert [image.image_id for image in cache] == cache.image_ids == sorted(cache.image_ids)
    assert cache[cache.image_ids[2]].image_id == cache.image_ids[2]
    assert cache.image_ids[0] in cache
    assert 0 not in cache
    assert repr(cache) == "<e_ups val: 4 images, instances and semantic>"
    assert cache[cache.image_ids[0]].hw == (64, 80)


# pycocotools' own array has not learnt numpy 2's `copy` yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_instances_are_the_rows_of_the_file_and_pycocotools_decodes_the_same_masks(cache, folder):
    rows = pq.read_table(folder / "instances.parquet").to_pylist()
    for image in cache:
        own = [row for row in rows if row["image_id"] == image.image_id]
        assert len(image.instances) == len(own) > 0
        for instance, row in zip(image.instances, own, strict=True):
            assert instance.category.category_id == row["category_id"]
            assert (instance.score, list(instance.box_xywh)) == (row["score"], row["bbox_xywh"])
            oracle = coco_mask.decode({"size": [64, 80], "counts": row["rle"]})
            assert np.array_equal(instance.mask, oracle.astype(bool))
            assert instance.area_px == oracle.sum()
        grid = np.frombuffer(own[0]["mask_probs"], np.uint8).reshape(28, 28)
        assert np.array_equal(image.instances[0].mask_probs, grid.astype(np.float32) / 255)


def test_probabilities_decode_to_the_stored_planes(cache, folder):
    row = pq.read_table(folder / "semantic.parquet").to_pylist()[1]
    semantic = cache[row["image_id"]].semantic
    stacked = np.frombuffer(row["planes"], np.uint8)
    assert np.array_equal(np.rint(255 * semantic.probs).reshape(stacked.shape), stacked)
    assert [category.category_id for category in semantic.categories] == row["category_ids"]


def test_the_class_map_has_the_likeliest_class_at_the_original_size(cache):
    image = cache[cache.image_ids[0]]
    assert image.semantic.class_map.shape == image.semantic.confidence.shape == image.hw
    listed = {cache.categories.class_index(category.category_id) for category in image.semantic.categories}
    assert set(np.unique(image.semantic.class_map)) <= listed
    # At a cell's centre nothing is interpolated. With cells of 4 x 4 pixels no pixel is a centre, but where one class
    # is the likeliest of a whole neighbourhood of cells it is that of the pixels between them.
    best = np.array([c.category_id for c in image.semantic.categories])[image.semantic.probs.argmax(axis=0)]
    for row, column in np.ndindex(best.shape[0] - 2, best.shape[1] - 2):
        if (best[row : row + 3, column : column + 3] == best[row, column]).all():
            patch = image.semantic.class_map[4 * row + 4 : 4 * row + 8, 4 * column + 4 : 4 * column + 8]
            assert (cache.categories.category_ids[patch] == best[row, column]).all()


def test_tables_come_whole_and_with_names(cache, folder):
    table = cache.to_arrow()
    assert table.num_rows == pq.read_metadata(folder / "instances.parquet").num_rows
    names = {c.category_id: c.name for c in cache.categories.categories}
    assert table["category"].to_pylist() == [names[i] for i in table["category_id"].to_pylist()]
    assert cache.to_arrow("semantic").equals(pq.read_table(folder / "semantic.parquet"))
    few = cache.to_pandas(columns=["image_id", "score"])
    assert list(few.columns) == ["image_id", "score"]
    assert len(few) == table.num_rows


def test_a_damaged_mask_spoils_the_instances_of_its_image_alone(copy):
    table = pq.read_table(copy / "instances.parquet")
    metadata = pq.read_metadata(copy / "instances.parquet").metadata
    rles = pa.array([b"!", *table["rle"].to_pylist()[1:]], pa.binary())
    garbage = table.set_column(table.column_names.index("rle"), table.schema.field("rle"), rles)
    own = {key: value for key, value in metadata.items() if key.startswith(b"antvision")}
    pq.write_table(garbage.replace_schema_metadata(own), copy / "instances.parquet")
    with open_predictions(copy) as cache:
        first, second = cache.image_ids[:2]
        assert cache[first].semantic.confidence.shape == (64, 80)
        assert cache[second].instances[0].mask.any()
        with pytest.raises(CacheError, match=f"image {first} of 64 x 80 px: mask 0: malformed RLE"):
            _ = cache[first].instances


def test_an_end_may_predict_semantics_only(tiny_run):
    with open_predictions(tiny_run / "data" / "predictions" / "hrnet_aspp" / "val") as cache:
        assert cache.tables == ["semantic"]
        image = cache[cache.image_ids[0]]
        assert image.hw == (64, 80)
        assert image.semantic.probs.ndim == 3
        for touch in (lambda: image.instances, cache.to_arrow):
            with pytest.raises(CacheError, match="hrnet_aspp has semantic only"):
                touch()


def test_an_unknown_image_names_the_nearest(cache):
    with pytest.raises(CacheError, match=r"no image 1000003999; its 4 images go from 1000001 to 1000004, nearest are"):
        cache[1000003999]


def test_a_folder_without_a_cache_names_those_that_are_near(folder):
    with pytest.raises(CacheError, match=r"there are .*e_ups/heldout, .*e_ups/val$"):
        open_predictions(folder.parent)
    with pytest.raises(CacheError, match="run `dvc repro`"):
        open_predictions("/nowhere/at/all")


def test_a_truncated_file_and_one_of_another_end_are_refused(folder, copy):
    whole = (copy / "semantic.parquet").read_bytes()
    (copy / "semantic.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CacheError, match=r"semantic\.parquet: not a whole Parquet file"):
        open_predictions(copy)
    shutil.copy(folder.parents[1] / "lwl_htc" / "val" / "semantic.parquet", copy)
    with pytest.raises(CacheError, match="are not of the same images, data and weights"):
        open_predictions(copy)
