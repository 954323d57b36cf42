"""The COCO panoptic format against panopticapi and real files, and one clear error for each way to break it."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset, check_files
from antvisionps.panoptic.png import (
    MAX_SEGMENT_ID,
    decode_segment_ids,
    encode_segment_ids,
    rgb_to_segment_ids,
    write_segment_ids_png,
)
from antvisionps.panoptic.segments import PanopticImage, Segment, class_index_map, measure_segments
from tests.drawing import category_set

CATEGORIES = category_set({7: "dog"}, {4: "sky"})
SEGMENT_ID = {".": 0, "S": 5, "D": 300, "E": 70_000, "C": 16_777_215}
CATEGORY_ID = {5: 4, 300: 7, 70_000: 7, 16_777_215: 7}
CROWD_IDS = {16_777_215}

SCENE = """
    SSSSS.
    SDDEES
    SDDECC
    ......
"""


def segment_map(picture: str) -> np.ndarray:
    return np.array([[SEGMENT_ID[letter] for letter in row] for row in picture.split()], dtype=np.int32)


def write_split(folder: Path, pictures: dict[int, str]) -> PanopticDataset:
    """A small data set on disk, read back: `panoptic.json`, `images/` and `panoptic/`."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    images = []
    for image_id, picture in pictures.items():
        segment_ids = segment_map(picture)
        photo = np.random.default_rng(image_id).integers(0, 256, size=(*segment_ids.shape, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{image_id}.png")
        write_segment_ids_png(folder / "panoptic" / f"{image_id}.png", segment_ids)
        segments = measure_segments(segment_ids, category_ids=CATEGORY_ID, crowd_ids=CROWD_IDS)
        images.append(PanopticImage(image_id, f"{image_id}.png", f"{image_id}.png", *segment_ids.shape, segments))
    write_panoptic_json(folder / "panoptic.json", categories=CATEGORIES, images=images)
    return open_split(folder)


def open_split(folder: Path) -> PanopticDataset:
    return read_panoptic(folder / "panoptic.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")


@pytest.fixture
def split(tmp_path):
    return write_split(tmp_path / "split", {12: SCENE, 3: "SS DD"})


def edit(dataset: PanopticDataset, change) -> PanopticDataset:
    """The data set with its JSON changed by `change(document)`, read again."""
    document = json.loads(dataset.annotations.read_text())
    change(document)
    dataset.annotations.write_text(json.dumps(document))
    return open_split(dataset.annotations.parent)


def image_of(dataset: PanopticDataset, image_id: int) -> PanopticImage:
    return next(image for image in dataset.images if image.image_id == image_id)


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


def test_grey_and_palette_photos_are_read_as_rgb(split):
    image = image_of(split, 3)
    Image.fromarray(np.array([[1, 2], [3, 4]], dtype=np.uint8)).save(split.photo_path(image))
    assert split.load_photo(image)[..., 2].tolist() == [[1, 2], [3, 4]]


def save_photo(path, hw, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*hw, 3), dtype=np.uint8)).save(path, exif=exif)


def test_a_photo_is_turned_upright_by_its_exif_orientation(split):
    image = image_of(split, 12)
    save_photo(split.photo_path(image), (6, 4), 6)
    assert split.load_photo(image).shape == (4, 6, 3)


def test_an_annotation_of_the_stored_pixels_names_the_orientation_and_both_sizes(split):
    image = image_of(split, 12)
    save_photo(split.photo_path(image), (4, 6), 6)
    expected = (
        "12.png: expected 6x4 pixels .*, got 4x6 turned upright by its EXIF orientation 6.* of 6x4 stored pixels; "
    )
    with pytest.raises(
        DataError, match=expected + r"turn the map .* or remove the tag: `exiftool -Orientation= .*12\.png"
    ):
        split.load_photo(image)


@pytest.mark.parametrize("orientation", [1, 3])
def test_a_photo_on_its_side_names_the_orientations_that_would_fit(split, orientation):
    image = image_of(split, 12)
    save_photo(split.photo_path(image), (6, 4), orientation)
    with pytest.raises(DataError, match=f"got 4x6 at EXIF orientation {orientation}; orientation 6 or 8 would fit"):
        split.load_photo(image)


def test_a_map_of_the_stored_pixels_names_the_photos_orientation(split):
    image = image_of(split, 12)
    save_photo(split.photo_path(image), (6, 4), 8)
    write_segment_ids_png(split.panoptic_path(image), np.rot90(segment_map(SCENE)))
    with pytest.raises(
        DataError, match=r"expected 6x4 .* got 4x6; the photo .*images/12\.png is turned .* orientation 8"
    ):
        split.load_segment_ids(image)


def test_a_map_is_of_rgb_a_palette_or_grey_with_or_without_alpha(split):
    """Colours are ids, of a palette too; grey values are ids themselves."""
    image = image_of(split, 12)
    ids = segment_map(SCENE)
    opaque = Image.fromarray(id2rgb(ids))
    transparent = opaque.copy()
    transparent.putalpha(7)
    palette = opaque.quantize(5)
    for picture, options in ((transparent, {}), (palette, {}), (palette, {"transparency": bytes([0, 9, 255])})):
        picture.save(split.panoptic_path(image), **options)
        np.testing.assert_array_equal(split.load_segment_ids(image), ids)
    dataset = edit(split, lambda document: segments(document)[1].update(id=6))  # of image 3: 5 and 6
    pair = np.array([[5, 5], [6, 6]])
    for picture in (
        pair.astype(np.uint8),
        pair.astype(np.uint16),
        Image.fromarray(pair.astype(np.uint8)).convert("LA"),
    ):
        grey = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        grey.save(dataset.panoptic_dir / "3.png")
        np.testing.assert_array_equal(dataset.load_segment_ids(image_of(dataset, 3)), pair)


@pytest.mark.parametrize(
    ("mode", "said"), [("L", "the PNG is grey, its values are"), ("P", "the PNG is a palette, its colo")]
)
def test_a_map_of_other_ids_says_how_its_png_is_read(split, mode, said):
    Image.fromarray(np.full((2, 2), 9, np.uint8)).convert(mode).save(split.panoptic_dir / "3.png")
    with pytest.raises(DataError, match=f"has pixels of segment .*{said}"):
        split.load_segment_ids(image_of(split, 3))


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
        (
            lambda d: d["annotations"][0],
            "image_id file_name segments_info",
            "(image|annotation).*({0}.*expected|expected '{0}')",
        ),
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


def segments(document: dict) -> list:
    """Of image 3: segments 5 and 300."""
    return document["annotations"][0]["segments_info"]


@pytest.mark.parametrize(("folder", "what"), [("images", "photo"), ("panoptic", "panoptic PNG")])
def test_missing_files_are_counted_and_the_first_is_named(split, folder, what):
    (split.annotations.parent / folder / "12.png").unlink()
    with pytest.raises(DataError, match=f"{folder}: 1 of 2 {what} files that .* names are missing, 12.png first"):
        check_files(split)


@pytest.mark.parametrize("kept_frac", [None, 0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(("name", "what"), [("1.jpg", "photo"), ("1.png", "photo"), ("1.png", "panoptic PNG")])
def test_a_missing_or_truncated_file_is_named(tmp_path, name, what, kept_frac):
    rng, path = np.random.default_rng(0), tmp_path / name
    segment_ids = rng.integers(1, 4, size=(60, 80), dtype=np.int32)
    if what == "photo":
        Image.fromarray(rng.integers(0, 256, size=(60, 80, 3), dtype=np.uint8)).save(path)
    else:
        write_segment_ids_png(path, segment_ids)
    image = PanopticImage(1, name, name, 60, 80, measure_segments(segment_ids, category_ids={1: 4, 2: 4, 3: 7}))
    dataset = PanopticDataset(tmp_path / "a.json", tmp_path, tmp_path, CATEGORIES, (image,))
    load = dataset.load_photo if what == "photo" else dataset.load_segment_ids
    assert load(image).shape[:2] == (60, 80)
    data = path.read_bytes()
    path.unlink()
    if kept_frac is not None:
        path.write_bytes(data[: int(kept_frac * len(data))])
    reason = r"No such file" if kept_frac is None else "truncated, corrupt or no PNG" if what != "photo" else ""
    with pytest.raises(DataError, match=rf"{name}: {what} of image 1 .* cannot be read whole \({reason}"):
        load(image)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("<html>not found</html>"), r"photo of image 3 .* cannot be read whole"),
        (lambda path: cv2.imwrite(str(path), np.full((2, 2), 1000, np.uint16)), "8 bits a channel expected"),
    ],
)
def test_a_photo_of_another_kind_is_refused(split, write, message):
    write(split.images_dir / "3.png")
    with pytest.raises(DataError, match=message):
        split.load_photo(image_of(split, 3))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 2), dtype=np.uint8), "no pixel of segment 5, .*the PNG is grey"),
        (np.zeros((2, 2, 4), dtype=np.uint8), "no pixel of segment 5"),
        (np.zeros((2, 2, 3), dtype=np.uint16), "8-bit RGB expected .* got 3 channels of uint16"),
        (id2rgb(segment_map("SS DE"))[..., ::-1], r"3\.png: has pixels of segment 70000, which segments_info of"),
        (np.zeros((2, 2, 3), dtype=np.uint8), r"no pixel of segment 5, which .* image 3 lists \(and 1 more like it\)"),
    ],
)
def test_a_panoptic_png_of_another_kind_or_of_other_segments_is_refused(split, pixels, message):
    cv2.imwrite(str(split.panoptic_dir / "3.png"), pixels)
    with pytest.raises(DataError, match=message):
        split.load_segment_ids(image_of(split, 3))


def test_sizes_that_disagree_are_refused(split):
    split = edit(split, lambda document: document["images"][0].update(width=3))
    image = image_of(split, 3)
    message = r"3\.png: expected 3x2 pixels \(width x height of image 3 in .*panoptic\.json\), got 2x2"
    for load in (split.load_photo, split.load_segment_ids):
        with pytest.raises(DataError, match=message):
            load(image)


def test_a_json_with_a_byte_order_mark_is_read(split):
    split.annotations.write_bytes(b"\xef\xbb\xbf" + split.annotations.read_bytes())
    assert open_split(split.annotations.parent).images == split.images
