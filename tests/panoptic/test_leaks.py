"""The same photo on both sides of a split, in whatever file."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from antvisionps.core.errors import DataError
from tests.panoptic.users_folder import edit, ids_of_splits, prepare_folder

TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    "options", [None, {"compress_level": 0}, {"exif": TURNED}, {"format": "WEBP", "lossless": True}]
)
def test_the_same_pixels_in_another_file_are_a_leak(folder, options):
    source, copy = (folder / "images" / f"{image_id:012d}.png" for image_id in (1, 12))
    shutil.copy(source, copy) if options is None else Image.open(source).save(copy, **options)
    assert (copy.read_bytes() == source.read_bytes()) == (options is None)
    message = r"leak: .*000001\.png in train and .*000012\.png in val are the same"
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


def test_a_photo_turned_and_the_same_with_a_tag_that_turns_it_are_a_leak(folder):
    source, copy = (folder / "images" / f"{image_id:012d}.png" for image_id in (1, 12))
    Image.open(source).rotate(90, expand=True).save(copy, exif=TURNED)
    with pytest.raises(DataError, match=r"leak: .*000001\.png .*000012\.png in val are the same"):
        prepare_folder(folder)


def test_the_same_pixels_in_another_shape_are_no_leak(folder):
    flat = np.full((64, 64, 3), 90, np.uint8)
    for image_id, shape in ((1, (64, 64, 3)), (12, (32, 128, 3))):
        Image.fromarray(flat.reshape(shape)).save(folder / "images" / f"{image_id:012d}.png")
    path = folder / "panoptic" / f"{12:012d}.png"
    Image.fromarray(np.asarray(Image.open(path)).reshape(32, 128, 3)).save(path)
    edit(folder / "val.json", lambda document: document["images"][1].update(height=32, width=128))
    prepare_folder(folder)


def test_the_same_photo_twice_in_one_split_is_no_leak(folder):
    shutil.copy(folder / "images" / f"{11:012d}.png", folder / "images" / f"{12:012d}.png")
    prepare_folder(folder)


def test_equal_photos_of_train_are_kept_on_one_side_and_the_number_held_out_is_said(folder, capsys):
    for image_id in (2, 3, 4):
        shutil.copy(folder / "images" / f"{1:012d}.png", folder / "images" / f"{image_id:012d}.png")
    prepared = prepare_folder(folder)
    ids = ids_of_splits(prepared)
    assert ids == {"train": [1, 2, 3, 4], "heldout": [5], "val": [11, 12]}
    said = (
        "1 images are held out, not prepare.heldout_images = 2: photos that are equal pixel by pixel stay on one side\n"
    )
    assert capsys.readouterr().out == said


def test_all_leaks_are_named_at_once(folder):
    for original, copy in ((1, 2), (1, 12), (3, 11)):
        shutil.copy(folder / "images" / f"{original:012d}.png", folder / "images" / f"{copy:012d}.png")
    with pytest.raises(DataError) as caught:
        prepare_folder(folder)
    named = re.findall(r"0*(\d+)\.png in train and \S*?0*(\d+)\.png in val", str(caught.value))
    assert named == [("1", "12"), ("2", "12"), ("3", "11")]
