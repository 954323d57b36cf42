"""The COCO panoptic format against panopticapi and real files, and one clear error for each way to break it."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import check_files
from antvisionps.panoptic.png import MAX_SEGMENT_ID, decode_segment_ids, encode_segment_ids, rgb_to_segment_ids
from antvisionps.panoptic.segments import PanopticImage, Segment, class_index_map, measure_segments
from tests.panoptic.drawn_split import (
    CATEGORIES,
    CATEGORY_ID,
    CROWD_IDS,
    SCENE,
    edit,
    image_of,
    open_split,
    segment_map,
    segments,
)


@given(st.lists(st.integers(0, MAX_SEGMENT_ID), min_size=1, max_size=50))
def test_ids_survive_the_way_through_colours_and_agree_with_panopticapi(ids):
    segment_ids = np.array([ids, ids[::-1]], dtype=np.int32)
    rgb = id2rgb(segment_ids)
    with Image.open(io.BytesIO(encode_segment_ids(segment_ids))) as png:
        np.testing.assert_array_equal(np.asarray(png), rgb)
    np.testing.assert_array_equal(rgb_to_segment_ids(rgb), rgb2id(rgb))
    # Of any memory layout.
    np.testing.assert_array_equal(rgb_to_segment_ids(rgb[:, ::-1]), segment_ids[:, ::-1])
    np.testing.assert_array_equal(decode_segment_ids(encode_segment_ids(segment_ids.T)), segment_ids.T)


def test_class_index_map_puts_things_first_and_void_at_255():
    segment_ids = segment_map(SCENE)
    image = PanopticImage(1, "a", "a", 4, 6, measure_segments(segment_ids, category_ids=CATEGORY_ID))
    expected = np.array([[{".": VOID_CLASS_INDEX, "S": 1}.get(letter, 0) for letter in row] for row in SCENE.split()])
    semantic = class_index_map(segment_ids, image, CATEGORIES)
    assert semantic.dtype == np.uint8
    np.testing.assert_array_equal(semantic, expected)


@pytest.mark.parametrize("listed", [(), (70_000,), (5, 300, 16_777_215)])
def test_ids_that_no_segment_has_are_void_in_class_index_map(listed):
    segment_ids = segment_map(SCENE)
    measured = measure_segments(segment_ids, category_ids=CATEGORY_ID)
    image = PanopticImage(1, "a", "a", 4, 6, tuple(s for s in measured if s.segment_id in listed))
    is_void = class_index_map(segment_ids, image, CATEGORIES) == VOID_CLASS_INDEX
    np.testing.assert_array_equal(is_void, ~np.isin(segment_ids, listed))


def test_measured_segments_have_area_box_and_crowd():
    assert measure_segments(segment_map(SCENE), category_ids=CATEGORY_ID, crowd_ids=CROWD_IDS) == (
        Segment(5, 4, 8, (0, 0, 6, 3), is_crowd=False),
        Segment(300, 7, 4, (1, 1, 2, 2), is_crowd=False),
        Segment(70_000, 7, 3, (3, 1, 2, 2), is_crowd=False),
        Segment(16_777_215, 7, 2, (4, 2, 2, 1), is_crowd=True),
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_measured_segments_agree_with_counting_pixels(height, width, seed):
    segment_ids = np.random.default_rng(seed).integers(0, 4, size=(height, width), dtype=np.int32)
    measured = measure_segments(segment_ids, category_ids={1: 7, 2: 7, 3: 4})
    assert [segment.segment_id for segment in measured] == [k for k in (1, 2, 3) if (segment_ids == k).any()]
    for segment in measured:
        ys, xs = np.nonzero(segment_ids == segment.segment_id)
        assert segment.area_px == len(ys)
        assert segment.bbox_xywh == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)


def test_a_split_comes_back_as_it_was_written(split):
    assert [image.image_id for image in split.images] == [3, 12]
    assert split.categories == CATEGORIES
    image = image_of(split, 12)
    assert (image.height, image.width) == (4, 6)
    assert image.segments == measure_segments(segment_map(SCENE), category_ids=CATEGORY_ID, crowd_ids=CROWD_IDS)
    np.testing.assert_array_equal(split.load_segment_ids(image), segment_map(SCENE))
    assert split.load_photo(image).shape == (4, 6, 3)
    check_files(split)


def test_the_order_of_images_does_not_touch_the_bytes(split, tmp_path):
    write_panoptic_json(tmp_path / "other.json", categories=CATEGORIES, images=reversed(split.images))
    assert (tmp_path / "other.json").read_bytes() == split.annotations.read_bytes()


def test_panopticapi_scores_a_split_against_itself_as_perfect(split, panopticapi_pq):
    annotations, folder = str(split.annotations), str(split.panoptic_dir)
    scores = panopticapi_pq(annotations, annotations, folder, folder)
    assert scores["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 2}


def test_file_names_may_have_folders(split):
    (split.images_dir / "night").mkdir()
    (split.images_dir / "3.png").rename(split.images_dir / "night" / "3.png")
    dataset = edit(split, lambda document: document["images"][0].update(file_name="night/3.png"))
    check_files(dataset)
    assert dataset.load_photo(image_of(dataset, 3)).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("folder", "name", "images", "segments"),
    [("coco_sample", "panoptic_examples", 2, None), ("cmp_facade", "panoptic_val", 40, 2186)],
)
def test_real_data_is_valid_and_its_measures_are_ours(real_data, folder, name, images, segments):
    root = real_data / folder
    dataset = read_panoptic(root / f"{name}.json", images_dir=root / "images", panoptic_dir=root / name)
    check_files(dataset)
    assert len(dataset.images) == images
    assert segments is None or sum(len(image.segments) for image in dataset.images) == segments
    for image in dataset.images:
        assert dataset.load_photo(image).shape == (image.height, image.width, 3)
        measured = measure_segments(
            dataset.load_segment_ids(image),
            category_ids={segment.segment_id: segment.category_id for segment in image.segments},
            crowd_ids={segment.segment_id for segment in image.segments if segment.is_crowd},
        )
        assert measured == tuple(sorted(image.segments, key=lambda segment: segment.segment_id))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"panoptic\.json: no readable COCO panoptic JSON \(no such file\); check the"),
        *(
            (lambda path, cut=cut: path.write_bytes(path.read_bytes()[:cut]), "no readable COCO panoptic JSON")
            for cut in (0, 1, 100, -1)
        ),
        (lambda path: path.write_text("[]"), "expected a JSON object, got a list"),
    ],
)
def test_annotations_that_are_no_whole_json_object_are_refused(split, spoil, message):
    spoil(split.annotations)
    with pytest.raises(DataError, match=message):
        open_split(split.annotations.parent)


NO_SUCH_KEY = "(image|annotation).*({0}.*expected|expected '{0}')"


@pytest.mark.parametrize(
    ("row_of", "keys", "message"),
    [
        (lambda d: d, "images annotations categories", "expected a list under '{}', got no such key"),
        (lambda d: d["images"][0], "id file_name height width", NO_SUCH_KEY),
        (lambda d: d["annotations"][0], "image_id file_name segments_info", NO_SUCH_KEY),
        (lambda d: segments(d)[0], "id category_id area bbox iscrowd", "image 3: .*segment.*{}: expected"),
    ],
)
def test_a_missing_key_is_named(split, row_of, keys, message):
    whole = split.annotations.read_bytes()
    for key in keys.split():
        split.annotations.write_bytes(whole)
        with pytest.raises(DataError, match=message.format(key)):
            edit(split, lambda document, key=key: row_of(document).pop(key))


@pytest.mark.parametrize(("flag", "is_crowd"), [(0, False), (1, True), (False, False), (True, True)])
def test_a_crowd_is_1_or_true(split, flag, is_crowd):
    dataset = edit(split, lambda document: segments(document)[0].update(iscrowd=flag))
    assert image_of(dataset, 3).segments[0].is_crowd is is_crowd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][1].update(id="3"), "position 1: id '3' is text, images have number ids, as 3"),
        (lambda d: d["images"][0].update(height=0), "image 3: expected a height and width of at least 1, got 0x2"),
        (lambda d: d["images"].append(d["images"][0]), "image id 3 appears twice"),
        (lambda d: d["images"][0].update(file_name="12.png"), "file name '12.png' appears twice"),
        (lambda d: d["annotations"][0].update(file_name="12.png"), "panoptic file name '12.png' appears twice"),
        (lambda d: d["annotations"].append(d["annotations"][0]), "image 3 has two annotations"),
        (lambda d: d["annotations"].pop(0), "image 3: no annotation for this image"),
        (lambda d: d["images"].pop(0), "an annotation is for image 3, which `images` does not list"),
        (lambda d: (d["images"].clear(), d["annotations"].clear()), "this split is empty"),
        (lambda d: segments(d)[0].update(category_id=99), "image 3: segment 5: unknown category 99"),
        (lambda d: segments(d)[0].update(id=300), "image 3: segment id 300 appears twice"),
        (lambda d: segments(d)[0].update(id=0), "image 3: segment 0: expected an id from 1 to 16777215"),
        (lambda d: segments(d)[0].update(id=2**24), "segment 16777216: expected an id from 1 to 16777215"),
        (lambda d: segments(d)[0].update(bbox=[1, 2, 3]), r"segment 5: bbox: expected \[x, y, width, height\]"),
        *(
            (lambda d, flag=flag: segments(d)[0].update(iscrowd=flag), "segment 5: .*iscrowd")
            for flag in ("0", "false", 2, None)
        ),
        (lambda d: segments(d).append(None), "image 3: a segment: id: expected a whole number, got None"),
    ],
)
def test_a_contradiction_in_the_json_is_refused(split, change, message):
    with pytest.raises(DataError, match=message) as caught:
        edit(split, change)
    assert str(caught.value).startswith(f"{split.annotations}: ")


def test_a_json_with_a_byte_order_mark_is_read(split):
    split.annotations.write_bytes(b"\xef\xbb\xbf" + split.annotations.read_bytes())
    assert open_split(split.annotations.parent).images == split.images
