"""What `prepare` finds before a training does."""

import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.panoptic.splits import prepare_coco_panoptic
from tests.panoptic.users_folder import TRAIN, VAL, brighten, contents, edit, prepare_folder


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_that_are_turned_in_doubt_are_counted_in_one_line(folder, capsys, orientation):
    """They are square, so their size is the same either way."""
    for image_id in (11, 12):
        path = folder / "images" / f"{image_id:012d}.png"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(path).save(path, exif=exif)
    prepare_folder(folder)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    if orientation == 1:
        assert warnings == []
    else:
        (line,) = warnings
        assert f"2 photos carry an EXIF orientation ({folder}/images/000000000011.png first" in line
        assert f"orientation {orientation}); they are turned upright, as viewers show them" in line


def test_a_map_that_is_too_large_is_refused_by_its_header_alone(folder):
    path = folder / "panoptic" / f"{12:012d}.png"
    png = path.read_bytes()
    for side, message in ((13_000, "expected 64x64 pixels .*, got 13000x13000"), (30_000, "more than 178956970")):
        path.write_bytes(png[:16] + struct.pack(">II", side, side) + png[24:])
        with pytest.raises(DataError, match=rf"000012\.png.*{message}"):
            prepare_folder(folder)


@pytest.mark.parametrize("place", ["images/000000000012.png", "panoptic/000000000012.png", "val.json"])
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "a socket"])
def test_what_is_no_file_is_refused_at_once(folder, monkeypatch, place, kind):
    monkeypatch.chdir(folder)  # a socket's path is short
    path = Path(place)
    path.unlink()
    make = {"a FIFO": os.mkfifo, "a folder": os.mkdir, "a device": lambda path: path.symlink_to("/dev/zero")}
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(place)
    else:
        make[kind](path)
    with pytest.raises(DataError, match=rf"{path.name}.*expected a file, got {kind}"):
        prepare_folder(folder)


@pytest.mark.parametrize("missing", ["train.json", "val.json", "panoptic", "images"])
def test_of_a_relative_root_the_whole_path_is_named(folder, monkeypatch, missing):
    monkeypatch.chdir(folder.parent)
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(DataError) as caught:
        prepare_coco_panoptic(Path("out"), root="mine", train=TRAIN, val=VAL, heldout_images=1, seed=0)
    whole = f"that is {folder / missing}: a relative root starts at {folder.parent}"
    assert str(caught.value).startswith(f"mine/{missing}: no such file or folder ({whole});")


def truncate_photo(folder: Path) -> None:
    path = folder / "images" / f"{4:012d}.png"
    path.write_bytes(path.read_bytes()[:-500])


MOON = {"id": 99, "name": "moon", "isthing": 1}


def edit_val(change):
    return lambda folder: edit(folder / "val.json", change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate_photo, r"000004\.png: photo of image 4 .* cannot be read whole"),
        (lambda folder: (folder / "panoptic" / f"{11:012d}.png").unlink(), "1 of 2 panoptic PNG files"),
        (edit_val(lambda val: val["annotations"][1]["segments_info"].pop()), "segments_info of image 12 does not list"),
        (edit_val(lambda val: val["categories"].append(MOON)), r"category 99 \('moon', thing\) is only in val"),
    ],
)
def test_what_would_spoil_a_training_is_found_before_it(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


@pytest.mark.parametrize("name", ["train", "val"])
def test_an_area_that_is_not_the_number_of_pixels_is_found(folder, name):
    image_id, first = {"train": 1, "val": 11}[name], {}

    def enlarge(document):
        first.update(document["annotations"][0]["segments_info"][0])
        document["annotations"][0]["segments_info"][0]["area"] += 1

    edit(folder / f"{name}.json", enlarge)
    segment_ids = rgb2id(np.asarray(Image.open(folder / "panoptic" / f"{image_id:012d}.png")))
    pixels = np.count_nonzero(segment_ids == first["id"])
    message = rf"{name}\.json: image {image_id}: segment {first['id']}: .*, {pixels}, got {pixels + 1}; correct"
    with pytest.raises(DataError, match=message):
        prepare_folder(folder)


def test_an_error_leaves_the_last_good_folder_and_nothing_else(folder):
    prepared = prepare_folder(folder)
    before = contents(prepared)
    brighten(folder)
    (folder / "images" / f"{1:012d}.png").write_bytes(b"")
    with pytest.raises(DataError):
        prepare_folder(folder)
    assert contents(prepared) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "prepared"]
