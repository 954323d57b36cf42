"""One small cache of two files, written, read back, and broken in every way that a reader has to notice."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader, SemanticWriter
from tests.drawing import category_set, draw_box, found

CATEGORIES = category_set({3: "cat", 7: "dog"}, {9: "sky"})
HEADER = CacheHeader("e_ups", "val", "f" * 64, CATEGORIES, "w" * 64)
IMAGES = {2: (4, 6), 5: (4, 6), 9: (8, 4)}


def instances(image_id, count=3, *, probs=True, **changes):
    hw = IMAGES.get(image_id, (4, 6))
    scores = np.linspace(0.9, 0.1, count)
    rows = (((3, 7)[index % 2], score, draw_box(hw, (1, 0, 2, index + 1))) for index, score in enumerate(scores))
    mask_probs = np.full((count, 28, 28), image_id % 200, dtype=np.uint8) if probs else None
    return found(*rows, hw=hw, image_id=image_id, **({"mask_probs": mask_probs} | changes))


def semantics(image_id, **changes):
    height, width = IMAGES.get(image_id, (4, 6))
    values = {
        "input_height": 8,
        "input_width": 12,
        "stride": 4.0,
        "category_ids": np.array([9, 3], dtype=np.int32),
        "planes": np.arange(12, dtype=np.uint8).reshape(2, 2, 3) + np.uint8(image_id % 200),
    }
    return ImageSemantics(image_id, height, width, **(values | changes))


KINDS = {
    "instances": (InstancesWriter, InstancesReader, instances),
    "semantic": (SemanticWriter, SemanticReader, semantics),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def write(kind, path, image_ids=tuple(IMAGES), header=HEADER):
    writer, _, make = KINDS[kind]
    with writer(path, header) as cache:
        for image_id in image_ids:
            cache.write(make(image_id))
    return path


def read(kind, path, expect=HEADER, images=None, **options):
    """All images, with their masks parsed."""
    with KINDS[kind][1](path, expect, images=images, **options) as reader:
        return [image for image in reader if kind == "semantic" or image.runs]


def rewrite(path, *, change=lambda table: table, metadata=None, **options):
    """The same file, with its rows or metadata changed behind the writer's back."""
    table = pq.read_table(path)
    changed = change(table)
    kept = pq.ParquetFile(path).metadata.metadata
    kept.pop(b"ARROW:schema")
    schema = changed.schema.with_metadata({**kept, **{key.encode(): value for key, value in (metadata or {}).items()}})
    pq.write_table(changed.cast(schema), path, **options)


def test_predictions_come_back_as_written(tmp_path, kind):
    make, names = KINDS[kind][2], [*KINDS[kind][2](2).__dataclass_fields__]
    with KINDS[kind][1](write(kind, tmp_path / "a.parquet"), HEADER, images=IMAGES) as reader:
        assert reader.header == HEADER
        assert reader.image_ids == [2, 5, 9]
        for image in (*reader, reader.read(5), reader.read(2)):  # streamed, then at random
            expected = make(image.image_id)
            for name in names:
                np.testing.assert_array_equal(getattr(image, name), getattr(expected, name))
                if isinstance(getattr(expected, name), np.ndarray):
                    assert getattr(image, name).dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("counts", [(0, 2, 0), (0, 0, 0)])
def test_an_image_without_an_instance_is_known_to_be_predicted(tmp_path, counts):
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        for image_id, count in zip(IMAGES, counts, strict=True):
            cache.write(instances(image_id, count))
    with InstancesReader(tmp_path / "a.parquet", HEADER, images=IMAGES) as reader:
        assert [len(image) for image in reader] == [*counts]


def test_rows_are_sorted_by_score_and_equal_scores_keep_their_order(tmp_path):
    unsorted = instances(2, 4, scores=np.array([0.2, 0.7, 0.2, 0.9], np.float32))
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(unsorted)
    (image,) = read("instances", tmp_path / "a.parquet")
    assert image.rles == [unsorted.rles[index] for index in (3, 1, 0, 2)]
    np.testing.assert_array_equal(image.boxes_xywh, unsorted.boxes_xywh[[3, 1, 0, 2]])


def test_mask_probs_are_optional_and_can_be_left_unread(tmp_path):
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(instances(2, probs=False))
        cache.write(instances(5))
    assert [image.mask_probs is None for image in read("instances", tmp_path / "a.parquet")] == [True, False]
    with InstancesReader(tmp_path / "a.parquet", HEADER, mask_probs=False) as reader:
        assert reader.read(5).mask_probs is None


def test_files_span_many_row_groups_and_are_read_at_random(tmp_path, kind):
    writer, reader, make = KINDS[kind]
    with writer(tmp_path / "a.parquet", HEADER) as cache:
        for image_id in range(100, 300, 2):
            cache.write(make(image_id))
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups > 2
    with reader(tmp_path / "a.parquet", HEADER) as cache:
        assert [image.image_id for image in cache] == list(range(100, 300, 2))
        assert [cache.read(image_id).image_id for image_id in (298, 100, 200)] == [298, 100, 200]


def test_an_exception_leaves_no_file_or_the_old_one(tmp_path, kind):
    writer, _, make = KINDS[kind]
    before = write(kind, tmp_path / "old" / "a.parquet").read_bytes()

    def diverge(folder):
        with writer(tmp_path / folder / "a.parquet", HEADER) as cache:
            cache.write(make(2))
            raise RuntimeError("the network diverged")

    for folder in ("new", "old"):
        with pytest.raises(RuntimeError):
            diverge(folder)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "old").iterdir()) == [tmp_path / "old" / "a.parquet"]
    assert (tmp_path / "old" / "a.parquet").read_bytes() == before


@pytest.mark.parametrize("second", [2, 5])
def test_images_are_written_once_and_in_order(tmp_path, kind, second):
    writer, _, make = KINDS[kind]
    with writer(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(make(5))
        with pytest.raises(CacheError, match=f"image {second} written after image 5"):
            cache.write(make(second))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (instances, {"scores": np.array([1, np.nan, 0], np.float32)}, "expected scores from 0 to 1, got nan in"),
        (instances, {"scores": np.zeros(3)}, r"expected scores \(3,\) float32 for its 3 masks, got \(3,\) float64"),
        (instances, {"boxes_xywh": np.zeros((3, 3), np.float32)}, r"expected boxes_xywh \(3, 4\)"),
        (instances, {"category_ids": np.array([3], np.int32)}, r"expected category_ids \(3,\)"),
        (instances, {"mask_probs": np.zeros((3, 14, 14), np.uint8)}, r"expected mask_probs \(3, 28, 28\)"),
        (instances, {"rles": encode_masks(np.ones((3, 5, 5)))}, "image 2 of 4 x 6 px: mask 0: RLE of another size"),
        (semantics, {"category_ids": np.array([3, 3], np.int32)}, "lists a category twice"),
        (semantics, {"category_ids": np.array([3], np.int32)}, r"expected planes \(1, grid_height, grid_width\)"),
        (semantics, {"planes": np.zeros((2, 2, 3))}, "uint8, got .* float64"),
        (semantics, {"stride": 0.0}, "expected a positive stride"),
        (semantics, {"input_width": 17}, "expected a grid that covers the input of 8 x 17 px, got 2 x 3 cells of 4 px"),
        (semantics, {"category_ids": np.array([], np.int32)}, "C > 0"),
    ],
)
def test_predictions_of_other_shape_or_value_are_refused(make, changes, message):
    with pytest.raises(CacheError, match=message):
        make(2, **changes)


@pytest.mark.parametrize(
    ("kind", "category_ids", "message"),
    [
        ("instances", [3, 3, 4], "image 2: unknown category 4"),
        ("instances", [3, 3, 9], "category 9, which is stuff"),
        ("semantic", [3, 4], "image 2: unknown category 4"),
    ],
)
def test_an_unknown_category_is_not_written(tmp_path, kind, category_ids, message):
    writer, _, make = KINDS[kind]
    with pytest.raises(CacheError, match=message), writer(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(make(2, category_ids=np.array(category_ids, np.int32)))


def set_metadata(**entries):
    return lambda path: rewrite(path, metadata={f"antvisionps.{name}": value for name, value in entries.items()})


def set_column(name, values):
    def change(table):
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))

    return lambda path: rewrite(path, change=change)


def set_index(**columns):
    def change(path):
        index = json.loads(pq.ParquetFile(path).metadata.metadata[b"antvisionps.images"])
        set_metadata(images=json.dumps(index | columns))(path)

    return change


def set_grids(height, width):
    def change(path):
        for name, side in (("grid_height", height), ("grid_width", width)):
            set_column(name, [side] * len(IMAGES))(path)

    return change


def keep_bytes(stop):
    return lambda path: path.write_bytes(path.read_bytes()[:stop])


def damage_a_page(path):
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(0).column(4).data_page_offset
    data[offset + 30 : offset + 50] = b"\xff" * 20
    path.write_bytes(data)


def add_a_column(table):
    return table.append_column("more", pa.array([0] * len(table)))


def widen_height(table):
    return table.set_column(1, pa.field("height", pa.int64(), nullable=False), table["height"].cast("int64"))


NAN = float("nan")
BAD_CACHES = [
    (KINDS, Path.unlink, r"a\.parquet: no such file"),
    *[(KINDS, keep_bytes(stop), "not a whole Parquet file") for stop in (0, 3, 200, -1, -40)],
    (KINDS, damage_a_page, "row group 0 is damaged"),
    (KINDS, set_metadata(schema_version="2"), "expected schema version 3, got 2; run `dvc repro predict`"),
    (KINDS, lambda path: pq.write_table(pa.table({"a": [1]}), path), "expected schema version 3, got none"),
    (KINDS, set_metadata(categories="[]"), "its metadata is not that of a cache"),
    (KINDS, set_metadata(dataset_fingerprint="e" * 64), "expected dataset fingerprint f{64}, got e{64}"),
    (KINDS, lambda path: rewrite(path, change=lambda t: t.drop_columns(["width"])), "column width of int32, got none"),
    (KINDS, lambda path: rewrite(path, change=widen_height), "expected a column height of int32, got int64"),
    (KINDS, lambda path: rewrite(path, change=add_a_column), r"expected the columns .* alone, got also \['more'\]"),
    (["instances"], lambda path: write("semantic", path), "expected a column category_id"),
    (["semantic"], lambda path: write("instances", path), "expected a column input_height"),
    (KINDS, set_metadata(images="[]"), "list of images is damaged"),
    (KINDS, set_index(image_id=[2, 5, 5]), "image 5 appears twice"),
    (KINDS, set_index(image_id=[2, 9, 5]), "image 5 comes after image 9, out of order"),
    (KINDS, set_index(height=[4, 6, 8]), r"image 5: expected \(height, width\) \(4, 6\) as .*, got \(6, 6\)"),
    (KINDS, set_index(rows=[3, 9, -3]), "counts fewer rows than none"),
    (["instances"], set_index(rows=[3, 3, 2]), "expected 8 rows for its 3 images, got 9"),
    (["instances"], lambda path: rewrite(path, row_group_size=2), "an image is torn between two row groups"),
    (["instances"], set_column("image_id", [2, 2, 5, 2, 5, 5, 9, 9, 9]), "image 2: rows with another image_id"),
    (["instances"], set_column("image_id", [2, 2, 2, 2, 5, 5, 9, 9, 9]), "image 5: rows with another image_id"),
    (["semantic"], set_column("image_id", [2, 5, 7]), "image 9: rows with another image_id stand in its place"),
    (["instances"], set_column("score", [1, 1, 1, 1, NAN, 0, 1, 1, 1]), "image 5: expected scores from 0 to 1"),
    (["instances"], set_column("score", [0.1, 0.5, 0.9] * 3), "image 2: instances are not sorted by score"),
    (["instances"], set_column("category_id", [3] * 5 + [4] + [3] * 3), "image 5: unknown category 4"),
    (["instances"], set_column("area_px", [1, 2, 3] * 3), "image 2: area_px disagrees"),
    (["instances"], set_column("area_px", [-1, 2, 3] * 3), "image 2: area_px disagrees"),
    (["instances"], set_column("score", [3e38, 1, 0.5] * 3), "image 2: expected scores from 0 to 1, got 3.*e.38"),
    (["instances"], set_column("score", [1, 0.5, -0.5] * 3), "image 2: expected scores from 0 to 1, got -0.5"),
    (["instances"], set_column("bbox_xywh", [[0, 0, 2.0**31, 1]] * 9), "expected boxes_xywh from -6 to 12, got"),
    (["instances"], set_column("bbox_xywh", [[NAN, 0, 1, 1]] * 9), r"expected boxes_xywh from -6 to 12, got \[nan,"),
    (["instances"], set_column("bbox_xywh", [[5, 0, -1, 1]] * 9), "image 2: expected box sizes from 0 to 12, got"),
    (["semantic"], set_column("stride", [3e38] * 3), "expected a positive stride within twice the input, got 3e"),
    (["semantic"], set_column("stride", [math.inf] * 3), "image 2: expected a positive stride within twice"),
    (["semantic"], set_column("stride", [20.0] * 3), "2 x 3 cells of 20 px, twice as many or more"),
    (["semantic"], set_column("input_height", [2**31 - 1] * 3), "cells of 4 px, too few"),
    (["semantic"], set_column("grid_height", [-2] * 3), "expected -12 bytes of planes"),
    (["semantic"], set_grids(-2, -3), r"categories on a grid \(-2, -3\)"),
    (KINDS, set_metadata(images="[" * 200_000), "list of images is damaged .nested too deeply"),
    (KINDS, set_metadata(images="9" * 5000), "list of images is damaged .Exceeds the limit"),
    (KINDS, set_index(image_id=[2, 5.5, 9]), "list of images is damaged .expected lists of whole numbers"),
    (KINDS, set_index(image_id=["2", "5", "9"]), "list of images is damaged .expected lists of whole numbers"),
    (KINDS, set_index(image_id=[2, 5, 2**70]), "list of images is damaged"),
    (KINDS, set_index(image_id=[2, 5]), "list of images is damaged .its columns are of different lengths"),
    (KINDS, set_index(width=None), "list of images is damaged"),
    (KINDS, set_index(height=[4, 0, 8]), "names sizes that no image has"),
    (KINDS, set_index(height=[4, 2**40, 8]), "names sizes that no image has"),
    (KINDS, set_metadata(categories="null"), "its metadata is not that of a cache"),
    (KINDS, set_metadata(categories="[" * 200_000), "its metadata is not that of a cache .* .nested too deeply"),
    (KINDS, set_metadata(split="x" * 10_000), "expected split val, got 'x{79}…;"),
    (KINDS, set_metadata(end="a\nb"), r"expected end e_ups, got 'a\\nb'"),
    (KINDS, set_metadata(end=b"\xff\xfe"), "its footer is damaged .*can't decode"),
    (["instances"], set_column("rle", encode_masks(np.ones((9, 2, 2)))), "image 2 of 4 x 6 px: mask 0: RLE of anoth"),
    (["instances"], set_column("mask_probs", [b"abc"] * 9), "image 2: expected mask_probs of 784 bytes"),
    (["semantic"], set_column("grid_height", [2, 3, 2]), r"image 5: expected 18 bytes of planes, 2 .*\(3, 3\), got 12"),
    (["semantic"], set_column("category_ids", [[3]] * 3), "image 2: expected 6 bytes of planes, 1 categories"),
    (["semantic"], set_column("category_ids", [[9, 3], [9, 4], [9, 3]]), "image 5: unknown category 4"),
    (["semantic"], set_column("planes", [b""] * 3), "image 2: expected 12 bytes of planes, .* got 0"),
    (["semantic"], set_column("stride", [NAN] * 3), "image 2: expected a positive stride"),
]


@pytest.mark.parametrize(
    ("kind", "spoil", "message"), [(kind, spoil, message) for kinds, spoil, message in BAD_CACHES for kind in kinds]
)
def test_a_bad_cache_is_told_by_file_image_and_remedy(tmp_path, kind, spoil, message):
    path = write(kind, tmp_path / "a.parquet")
    spoil(path)
    with pytest.raises(CacheError, match=message) as refused:
        read(kind, path, images=IMAGES)
    assert str(refused.value).startswith(f"{path}: ")
    assert "run `dvc repro" in str(refused.value)


def test_images_before_a_bad_one_can_be_read(tmp_path):
    path = write("instances", tmp_path / "a.parquet")
    set_column("score", [1, 1, 1, 1, NAN, 0, 1, 1, 1])(path)
    with InstancesReader(path, HEADER, images=IMAGES) as reader:
        assert len(reader.read(2)) == 3
        with pytest.raises(CacheError, match="image 5: expected scores from 0 to 1"):
            reader.read(5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": "lwl_htc"}, "expected end lwl_htc, got e_ups"),
        ({"split": "heldout"}, "expected split heldout, got val"),
        ({"categories": category_set({3: "cow"}, {})}, "other categories: .*cow.*cat"),
        ({"categories": CategorySet(CATEGORIES.categories[:2])}, "expected 2 categories, got 3"),
    ],
)
def test_the_cache_of_something_else_is_refused(tmp_path, kind, changes, message):
    path = write(kind, tmp_path / "a.parquet")
    with pytest.raises(CacheError, match=message):
        read(kind, path, expect=replace(HEADER, **changes))
    read(kind, path, expect=replace(HEADER, weights_sha256="other"))  # which is no reason to refuse


def test_images_other_than_the_splits_are_named(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet", image_ids=(2, 9))
    with pytest.raises(CacheError, match="image 5 of split val is missing from the cache"):
        read(kind, path, images=IMAGES)
    with pytest.raises(CacheError, match="image 9 is not in split val"):
        read(kind, path, images={2: (4, 6)})
    with KINDS[kind][1](path, HEADER) as reader, pytest.raises(CacheError, match="image 5 is missing"):
        reader.read(5)
