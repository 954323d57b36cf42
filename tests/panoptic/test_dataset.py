"""The photos and maps that a COCO panoptic JSON names, and one clear error for each that is not as it says."""

import cv2
import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.panoptic.dataset import PanopticDataset, check_files
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from tests.panoptic.drawn_split import CATEGORIES, SCENE, edit, image_of, segment_map, segments


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
