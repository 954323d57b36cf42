"""One small cache of two files, written, read back, and broken in every way that a reader has to notice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lz4.block
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.schema import CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader, SemanticWriter

PROJECT = Path(__file__).parents[2]
CATEGORIES = CategorySet.from_json(
    [
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 9, "name": "sky", "isthing": 0},
    ],
    where="test",
)
HEADER = CacheHeader("e_ups", "val", "f" * 64, CATEGORIES, "w" * 64)
IMAGES = {2: (4, 6), 5: (4, 6), 9: (8, 4)}


def instances(image_id, count=3, *, probs=True, **changes):
    height, width = IMAGES.get(image_id, (4, 6))
    masks = np.zeros((count, height, width), dtype=bool)
    for index in range(count):
        masks[index, : index + 1, 1:3] = True
    values = {
        "image_id": image_id,
        "height": height,
        "width": width,
        "category_ids": np.resize([3, 7], count).astype(np.int32),
        "scores": np.linspace(0.9, 0.1, count).astype(np.float32),
        "boxes_xywh": np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        "rles": encode_masks(masks) if count else [],
        "mask_probs": np.full((count, 28, 28), image_id % 200, dtype=np.uint8) if probs else None,
    }
    return ImageInstances(**(values | changes))


def semantics(image_id, **changes):
    height, width = IMAGES.get(image_id, (4, 6))
    values = {
        "image_id": image_id,
        "height": height,
        "width": width,
        "input_height": 8,
        "input_width": 12,
        "stride": 4.0,
        "category_ids": np.array([9, 3], dtype=np.int32),
        "planes": np.arange(12, dtype=np.uint8).reshape(2, 2, 3) + np.uint8(image_id % 200),
    }
    return ImageSemantics(**(values | changes))


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


def read(kind, path, expect=HEADER, images=None):
    with KINDS[kind][1](path, expect, images=images) as reader:
        return list(reader)


def rewrite(path, *, change=lambda table: table, metadata=None):
    """The same file, with its rows or metadata changed behind the writer's back."""
    table = pq.read_table(path)
    changed = change(table)
    kept = pq.ParquetFile(path).metadata.metadata
    kept.pop(b"ARROW:schema")
    schema = changed.schema.with_metadata({**kept, **{key.encode(): value for key, value in (metadata or {}).items()}})
    pq.write_table(changed.cast(schema), path)


def set_column(name, values):
    def change(table):
        index = table.schema.get_field_index(name)
        return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))

    return change


# What comes back is what went in.


def test_instances_come_back_as_written(tmp_path):
    with InstancesReader(write("instances", tmp_path / "a.parquet"), HEADER, images=IMAGES) as reader:
        assert reader.header == HEADER
        assert reader.image_ids == [2, 5, 9]
        for found in (*reader, reader.read(5), reader.read(2)):  # streamed, then at random
            expected = instances(found.image_id)
            assert (found.height, found.width) == IMAGES[found.image_id]
            assert found.rles == expected.rles
            for name in ("category_ids", "scores", "boxes_xywh", "mask_probs"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
                assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_semantics_come_back_as_written(tmp_path):
    with SemanticReader(write("semantic", tmp_path / "a.parquet"), HEADER, images=IMAGES) as reader:
        assert reader.image_ids == [2, 5, 9]
        for found in (*reader, reader.read(5), reader.read(2)):
            expected = semantics(found.image_id)
            for name in ImageSemantics.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_an_image_without_an_instance_is_known_to_be_predicted(tmp_path):
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(instances(2, 0))
        cache.write(instances(5, 2))
        cache.write(instances(9, 0))
    with InstancesReader(tmp_path / "a.parquet", HEADER, images=IMAGES) as reader:
        assert [len(image) for image in reader] == [0, 2, 0]


@pytest.mark.parametrize("count", [0, 2])
def test_reading_imports_nothing_that_takes_long_to_import(tmp_path, count):
    with InstancesWriter(tmp_path / "instances.parquet", HEADER) as cache:
        cache.write(instances(2, count))
        cache.write(instances(5, 1))
    write("semantic", tmp_path / "semantic.parquet")
    code = """
import sys
from pathlib import Path
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.semantic import SemanticReader
for kind in InstancesReader, SemanticReader:
    kind(Path(sys.argv[1 + (kind is SemanticReader)])).read(2)
print(sorted({"pandas", "pyarrow.compute", "numba"} & set(sys.modules)))
"""
    paths = [tmp_path / f"{kind}.parquet" for kind in KINDS]
    command = [sys.executable, "-c", code, *paths]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert ran.stdout == "[]\n"


def test_a_cache_in_which_nothing_was_found_can_be_read(tmp_path):
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(instances(2, 0))
    assert [len(image) for image in read("instances", tmp_path / "a.parquet")] == [0]


def test_rows_are_sorted_by_score_and_equal_scores_keep_their_order(tmp_path):
    unsorted = instances(2, 4, scores=np.array([0.2, 0.7, 0.2, 0.9], np.float32))
    with InstancesWriter(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(unsorted)
    (found,) = read("instances", tmp_path / "a.parquet")
    assert found.rles == [unsorted.rles[index] for index in (3, 1, 0, 2)]
    np.testing.assert_array_equal(found.boxes_xywh, unsorted.boxes_xywh[[3, 1, 0, 2]])


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


def test_equal_predictions_give_equal_bytes(tmp_path, kind):
    assert write(kind, tmp_path / "a.parquet").read_bytes() == write(kind, tmp_path / "b.parquet").read_bytes()


def test_planes_are_one_lz4_block_plane_after_plane(tmp_path):
    compressed = pq.read_table(write("semantic", tmp_path / "a.parquet"))["planes"][0].as_py()
    assert lz4.block.decompress(compressed) == semantics(2).planes.tobytes()


def test_probabilities_are_rounded_and_planes_without_any_left_out():
    probs = np.array([[[0.0, 0.001]], [[0.5, 0.2]], [[1.0, 0.998]]])
    image = ImageSemantics.from_probs(
        image_id=1, height=2, width=4, input_height=2, input_width=4, stride=2, category_ids=[3, 7, 9], probs=probs
    )
    assert image.category_ids.tolist() == [7, 9]
    assert image.planes.tolist() == [[[128, 51]], [[255, 254]]]


# A file stands under its name only when whole.


def test_nothing_is_left_after_an_exception(tmp_path, kind):
    def diverge():
        writer, _, make = KINDS[kind]
        with writer(tmp_path / "out" / "a.parquet", HEADER) as cache:
            cache.write(make(2))
            raise RuntimeError("the network diverged")

    with pytest.raises(RuntimeError):
        diverge()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_old_file_survives_an_exception(tmp_path, kind):
    before = write(kind, tmp_path / "a.parquet").read_bytes()
    with pytest.raises(RuntimeError), KINDS[kind][0](tmp_path / "a.parquet", HEADER):
        raise RuntimeError("killed")
    assert (tmp_path / "a.parquet").read_bytes() == before


@pytest.mark.parametrize("second", [2, 5])
def test_images_are_written_once_and_in_order(tmp_path, kind, second):
    writer, _, make = KINDS[kind]
    with writer(tmp_path / "a.parquet", HEADER) as cache:
        cache.write(make(5))
        with pytest.raises(CacheError, match=f"image {second} written after image 5"):
            cache.write(make(second))


# What a network may not hand over.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scores": np.array([0.5, np.nan, 0.1], np.float32)},
            "image 2: expected finite scores, got nan in instance 1",
        ),
        ({"scores": np.zeros(3)}, r"expected scores \(3,\) float32 for its 3 masks, got \(3,\) float64"),
        ({"boxes_xywh": np.zeros((3, 3), np.float32)}, r"expected boxes_xywh \(3, 4\)"),
        ({"category_ids": np.array([3], np.int32)}, r"expected category_ids \(3,\)"),
        ({"mask_probs": np.zeros((3, 14, 14), np.uint8)}, r"expected mask_probs \(3, 28, 28\)"),
        ({"rles": encode_masks(np.ones((3, 5, 5)))}, "image 2 of 4 x 6 px: mask 0: RLE of another size"),
    ],
)
def test_instances_of_other_shape_or_value_are_refused(changes, message):
    with pytest.raises(CacheError, match=message):
        instances(2, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_ids": np.array([3, 3], np.int32)}, "lists a category twice"),
        ({"category_ids": np.array([3], np.int32)}, r"expected planes \(1, grid_height, grid_width\)"),
        ({"planes": np.zeros((2, 2, 3))}, "uint8, got .* float64"),
        ({"stride": 0.0}, "expected a positive stride"),
        ({"input_width": 17}, "expected a grid that covers the input of 8 x 17 px, got 2 x 3 cells of 4 px"),
        ({"category_ids": np.array([], np.int32)}, "C > 0"),
    ],
)
def test_semantics_of_other_shape_or_value_are_refused(changes, message):
    with pytest.raises(CacheError, match=message):
        semantics(2, **changes)


@pytest.mark.parametrize(
    ("kind", "image", "message"),
    [
        ("instances", instances(2, category_ids=np.array([3, 3, 4], np.int32)), "image 2: unknown category 4"),
        ("instances", instances(2, category_ids=np.array([3, 3, 9], np.int32)), "category 9, which is stuff"),
        ("semantic", semantics(2, category_ids=np.array([3, 4], np.int32)), "image 2: unknown category 4"),
    ],
)
def test_an_unknown_category_is_not_written(tmp_path, kind, image, message):
    with pytest.raises(CacheError, match=message), KINDS[kind][0](tmp_path / "a.parquet", HEADER) as cache:
        cache.write(image)


# What a reader refuses.


def test_a_missing_file_is_refused(tmp_path, kind):
    with pytest.raises(CacheError, match=r"a\.parquet: no such file; run `dvc repro`"):
        read(kind, tmp_path / "a.parquet")


@pytest.mark.parametrize("length", [0, 3, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, kind, length):
    path = write(kind, tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CacheError, match="not a whole Parquet file"):
        read(kind, path)


def test_damaged_pages_are_refused(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    offset = pq.ParquetFile(path).metadata.row_group(0).column(4).data_page_offset
    data[offset + 30 : offset + 50] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(CacheError, match="row group 0 is damaged"):
        read(kind, path)


def test_another_schema_version_is_refused(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet")
    rewrite(path, metadata={"antvisionps.schema_version": "1"})
    with pytest.raises(CacheError, match="expected schema version 2, got 1"):
        read(kind, path)


def test_a_parquet_file_of_something_else_is_refused(tmp_path, kind):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(CacheError, match="expected schema version 2, got none"):
        read(kind, tmp_path / "a.parquet")


def test_a_missing_column_is_refused(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet")
    rewrite(path, change=lambda table: table.drop_columns(["width"]))
    with pytest.raises(CacheError, match="expected a column width of int32, got none"):
        read(kind, path)


def test_a_column_of_another_type_is_refused(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet")
    rewrite(
        path,
        change=lambda t: t.set_column(1, pa.field("height", pa.int64(), nullable=False), t["height"].cast("int64")),
    )
    with pytest.raises(CacheError, match="expected a column height of int32, got int64"):
        read(kind, path)


def test_an_extra_column_is_refused(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet")
    rewrite(path, change=lambda table: table.append_column("more", pa.array([0] * len(table))))
    with pytest.raises(CacheError, match="expected the columns"):
        read(kind, path)


def test_the_file_of_the_other_kind_is_refused(tmp_path, kind):
    other = "semantic" if kind == "instances" else "instances"
    with pytest.raises(CacheError, match="expected a column"):
        read(kind, write(other, tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": "lwl_htc"}, "expected end lwl_htc, got e_ups"),
        ({"split": "heldout"}, "expected split heldout, got val"),
        ({"dataset_fingerprint": "0" * 64}, "expected dataset fingerprint 0{64}, got f{64}"),
        (
            {"categories": CategorySet.from_json([{"id": 3, "name": "cow", "isthing": 1}], where="test")},
            "other categories: .*cow.*cat",
        ),
    ],
)
def test_the_cache_of_something_else_is_refused(tmp_path, kind, changes, message):
    path = write(kind, tmp_path / "a.parquet")
    with pytest.raises(CacheError, match=message):
        read(kind, path, expect=replace(HEADER, **changes))


def test_other_weights_are_no_reason_to_refuse(tmp_path, kind):
    read(kind, write(kind, tmp_path / "a.parquet"), expect=replace(HEADER, weights_sha256="other"))


def test_an_image_that_was_not_predicted_is_named(tmp_path, kind):
    path = write(kind, tmp_path / "a.parquet", image_ids=(2, 9))
    with pytest.raises(CacheError, match="image 5 of split val is missing from the cache"):
        read(kind, path, images=IMAGES)
    with KINDS[kind][1](path, HEADER) as reader, pytest.raises(CacheError, match="image 5 is missing"):
        reader.read(5)


def test_an_image_that_the_split_lacks_is_named(tmp_path, kind):
    with pytest.raises(CacheError, match="image 9 is not in split val"):
        read(kind, write(kind, tmp_path / "a.parquet"), images={2: (4, 6), 5: (4, 6)})


def test_an_image_of_another_size_is_named(tmp_path, kind):
    with pytest.raises(CacheError, match=r"image 5: expected \(height, width\) \(6, 4\) .*, got \(4, 6\)"):
        read(kind, write(kind, tmp_path / "a.parquet"), images={**IMAGES, 5: (6, 4)})


def change_index(path, **columns):
    index = json.loads(pq.ParquetFile(path).metadata.metadata[b"antvisionps.images"])
    rewrite(path, metadata={"antvisionps.images": json.dumps(index | columns)})


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [([2, 5, 5], "image 5 appears twice"), ([2, 9, 5], "image 5 comes after image 9, out of order")],
)
def test_images_twice_or_out_of_order_are_refused(tmp_path, kind, image_ids, message):
    path = write(kind, tmp_path / "a.parquet")
    if kind == "instances":
        change_index(path, image_id=image_ids)
    else:
        rewrite(path, change=set_column("image_id", image_ids))
    with pytest.raises(CacheError, match=message):
        read(kind, path)


def test_rows_that_the_list_of_images_does_not_count_are_refused(tmp_path):
    path = write("instances", tmp_path / "a.parquet")
    change_index(path, instances=[3, 3, 2])
    with pytest.raises(CacheError, match="expected 8 rows for its 3 images, got 9"):
        read("instances", path)


def test_an_image_that_counts_fewer_rows_than_none_is_refused(tmp_path):
    path = write("instances", tmp_path / "a.parquet")
    change_index(path, instances=[3, 9, -3])
    with pytest.raises(CacheError, match="counts fewer rows than none"):
        read("instances", path)


@pytest.mark.parametrize("image_ids", [[2, 2, 5, 2, 5, 5, 9, 9, 9], [2, 2, 2, 2, 5, 5, 9, 9, 9]])
def test_rows_in_the_place_of_another_image_are_refused(tmp_path, image_ids):
    path = write("instances", tmp_path / "a.parquet")
    rewrite(path, change=set_column("image_id", image_ids))
    with pytest.raises(CacheError, match="rows with another image_id stand in its place"):
        read("instances", path)


def test_a_missing_list_of_images_is_refused(tmp_path):
    path = write("instances", tmp_path / "a.parquet")
    rewrite(path, metadata={"antvisionps.images": "[]"})
    with pytest.raises(CacheError, match="list of images is damaged"):
        read("instances", path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("score", [0.9, float("nan"), 0.1] * 3, "image 2: expected finite scores"),
        ("score", [0.1, 0.5, 0.9] * 3, "image 2: instances are not sorted by score"),
        ("category_id", [3, 4, 3] * 3, "image 2: unknown category 4"),
        ("area_px", [1, 2, 3] * 3, "image 2: area_px disagrees"),
        ("rle", encode_masks(np.ones((9, 2, 2))), "image 2 of 4 x 6 px: mask 0: RLE of another size"),
        ("mask_probs", [b"abc"] * 9, "image 2: expected mask_probs of 784 bytes"),
    ],
)
def test_damaged_instances_are_refused(tmp_path, column, values, message):
    path = write("instances", tmp_path / "a.parquet")
    rewrite(path, change=set_column(column, values))
    with pytest.raises(CacheError, match=message):
        read("instances", path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("grid_height", [3, 3, 3], r"image 2: expected 18 bytes of planes, 2 categories on a grid \(3, 3\), got 12"),
        ("category_ids", [[3]] * 3, "image 2: expected 6 bytes of planes, 1 categories"),
        ("category_ids", [[3, 4]] * 3, "image 2: unknown category 4"),
        ("planes", [b"not LZ4"] * 3, "image 2: its planes are not a whole LZ4 block"),
        ("planes", [b""] * 3, "image 2: its planes are not a whole LZ4 block"),
        ("planes", [lz4.block.compress(bytes(12))[:-1]] * 3, "image 2: its planes are not a whole LZ4 block"),
        ("stride", [float("nan")] * 3, "image 2: expected a positive stride"),
    ],
)
def test_damaged_semantics_are_refused(tmp_path, column, values, message):
    path = write("semantic", tmp_path / "a.parquet")
    rewrite(path, change=set_column(column, values))
    with pytest.raises(CacheError, match=message):
        read("semantic", path)


# What every refusal tells: the file, the image if it is one that is wrong, and what to do.


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def list_images(kind, path, image_ids):
    if kind == "instances":
        change_index(path, image_id=image_ids)
    else:
        rewrite(path, change=set_column("image_id", image_ids))


BAD_CACHES = {
    "another schema version": (
        lambda kind, path: rewrite(path, metadata={"antvisionps.schema_version": "0"}),
        KINDS,
        None,
    ),
    "another data set": (
        lambda kind, path: rewrite(path, metadata={"antvisionps.dataset_fingerprint": "e" * 64}),
        KINDS,
        None,
    ),
    "a missing image": (lambda kind, path: write(kind, path, image_ids=(2, 9)), KINDS, 5),
    "an image twice": (lambda kind, path: list_images(kind, path, [2, 5, 5]), KINDS, 5),
    "planes that disagree with the grid": (
        lambda kind, path: rewrite(path, change=set_column("grid_height", [2, 3, 2])),
        ["semantic"],
        5,
    ),
    "a NaN score": (
        lambda kind, path: rewrite(
            path, change=set_column("score", [0.9, 0.5, 0.1, float("nan"), 0.5, 0.1] + [0.9] * 3)
        ),
        ["instances"],
        5,
    ),
    "an RLE of another size": (
        lambda kind, path: rewrite(
            path, change=set_column("rle", instances(2).rles + encode_masks(np.ones((3, 5, 5))) + instances(9).rles)
        ),
        ["instances"],
        5,
    ),
    "an unknown category of instances": (
        lambda kind, path: rewrite(path, change=set_column("category_id", [3] * 5 + [4] + [3] * 3)),
        ["instances"],
        5,
    ),
    "an unknown category of semantics": (
        lambda kind, path: rewrite(path, change=set_column("category_ids", [[9, 3], [9, 4], [9, 3]])),
        ["semantic"],
        5,
    ),
    "a truncated file": (lambda kind, path: truncate(path), KINDS, None),
    "no file": (lambda kind, path: path.unlink(), KINDS, None),
}


@pytest.mark.parametrize("check_masks", [True, False])
@pytest.mark.parametrize(
    ("kind", "what"), [(kind, what) for what, (_, kinds, _) in BAD_CACHES.items() for kind in kinds]
)
def test_a_bad_cache_is_told_by_file_image_and_remedy(tmp_path, kind, what, check_masks):
    spoil, _, image_id = BAD_CACHES[what]
    path = write(kind, tmp_path / "a.parquet")
    spoil(kind, path)
    options = {"check_masks": check_masks} if kind == "instances" else {}

    def use():
        with KINDS[kind][1](path, HEADER, images=IMAGES, **options) as reader:
            return [image.runs if kind == "instances" else image.planes for image in reader]

    with pytest.raises(CacheError) as refused:
        use()
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "run `dvc repro`" in message
    assert image_id is None or f"image {image_id}" in message


def test_images_before_a_bad_one_can_be_read(tmp_path):
    path = write("instances", tmp_path / "a.parquet")
    BAD_CACHES["a NaN score"][0]("instances", path)
    with InstancesReader(path, HEADER, images=IMAGES) as reader:
        assert len(reader.read(2)) == 3
        with pytest.raises(CacheError, match="image 5: expected finite scores"):
            reader.read(5)
