import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.datasets.pictures import check_pictures, describe_skipped, find_pictures, read_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
TRANSPOSED_BY = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, 1),
    7: np.rot90(RGB.transpose(1, 0, 2), 2),
    8: np.rot90(RGB, -1),
}
"""EXIF orientation → how a camera stores RGB (TIFF 6.0, Orientation)."""


def save(path, array_or_image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("orientation", TRANSPOSED_BY)
def test_a_picture_comes_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(TRANSPOSED_BY[orientation]), exif=exif)
    assert np.array_equal(read_picture(path), RGB)


def test_every_8_bit_kind_becomes_rgb(tmp_path):
    grey = RGB[..., 0]
    assert np.array_equal(read_picture(save(tmp_path / "grey.png", grey)), np.stack([grey] * 3, axis=2))
    transparent = np.dstack([RGB, np.full((6, 9), 7, np.uint8)])
    assert np.array_equal(read_picture(save(tmp_path / "alpha.png", transparent)), RGB)
    grey_alpha = save(tmp_path / "la.png", Image.fromarray(grey).convert("LA"))
    assert np.array_equal(read_picture(grey_alpha)[..., 1], grey)
    palette = Image.fromarray(RGB).quantize(16)
    with_transparency = save(tmp_path / "palette.png", palette, transparency=bytes(range(16)))
    assert np.array_equal(read_picture(with_transparency), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(grey).convert("1")
    assert np.array_equal(read_picture(save(tmp_path / "bits.png", bits))[..., 2], np.asarray(bits) * 255)
    cmyk = save(tmp_path / "cmyk.tiff", Image.fromarray(RGB).convert("CMYK"))
    assert np.array_equal(read_picture(cmyk), RGB)


def test_an_animation_is_its_first_frame(tmp_path):
    first, second = (Image.new("RGB", (5, 4), color) for color in ("red", "blue"))
    path = save(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert (read_picture(path) == (255, 0, 0)).all()


def complaints(folder):
    pictures, _ = find_pictures([folder])
    with pytest.raises(DataError) as caught:
        check_pictures(pictures)
    return str(caught.value).splitlines()


def test_pictures_that_cannot_be_read_are_named_up_to_five_of_them(tmp_path):
    whole = save(tmp_path / "whole.jpg", RGB.repeat(40, axis=0).repeat(40, axis=1))
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.gif").touch()
    save(tmp_path / "deep.png", (RGB[..., 0].astype(np.uint16) * 200))
    lines = complaints(tmp_path)
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in lines] == ["cut.jpg", "deep.png", "empty.gif", "text.png"]
    assert "8 bits a channel expected" in lines[1]
    for index in range(4):
        (tmp_path / f"{index}.png").touch()
    assert complaints(tmp_path)[5:] == ["and 3 more pictures cannot be read"]


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    for name in ("a/z.png", "a/b/y.JPG", "a/.hidden/x.png", "a/._z.png", "a/__MACOSX/z.png", "single"):
        save(tmp_path / name, RGB, format="PNG")
    for name in ("notes.txt", "e.HEIC", "b/1.heic", "2.heic", "b/3.heic", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "a" / name).touch()
    found, skipped = find_pictures([tmp_path / "single", tmp_path / "a", tmp_path / "a" / "z.png"])
    assert [picture.name.as_posix() for picture in found] == ["b/y.JPG", "single", "z.png"]
    line = "skipped, as no pictures: 4 .heic (2.heic, 1.heic, 3.heic, …), 1 .txt (notes.txt)"
    assert describe_skipped(skipped) == line


def test_a_former_result_in_a_folder_of_pictures_is_no_picture(tmp_path, monkeypatch):
    for name in ("a.png", "out/overlays/a.png", "out/panoptic/a.png", "outer/b.png"):
        save(tmp_path / "photos" / name, RGB)
    (tmp_path / "photos" / "out" / "panoptic.json").touch()
    monkeypatch.chdir(tmp_path / "photos")
    found, skipped = find_pictures([tmp_path / "photos"], without=Path("out"))
    assert [picture.name.as_posix() for picture in found] == ["a.png", "outer/b.png"]
    assert skipped == []


def test_a_folder_gives_every_kind_of_picture_that_pillow_decodes(tmp_path):
    kinds = ["avif", "bmp", "gif", "jfif", "jp2", "JPE", "jpeg", "png", "ppm", "qoi", "tga", "TIF", "tiff", "WebP"]
    for kind in kinds:
        save(tmp_path / f"{kind}.{kind}", RGB)
    for other in ("h5", "pdf", "eps", "mpg"):  # known to Pillow by name alone
        (tmp_path / f"{other}.{other}").touch()
    found, skipped = find_pictures([tmp_path])
    assert [picture.path.stem for picture in found] == sorted(kinds)
    assert len(skipped) == 4
    assert {read_picture(picture.path).shape for picture in found} == {RGB.shape}


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for places in ([tmp_path], [tmp_path / "a.jpg"]):
        pictures, _ = find_pictures(places)
        with pytest.raises(DataError, match=r"a\.jpg: cannot be read as a picture \(expected a file, got a FIFO\)"):
            check_pictures(pictures)


def test_what_cannot_be_found_or_told_apart_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such picture or folder"):
        find_pictures([tmp_path / "nothing"])
    with pytest.raises(DataError, match=r"no picture in this folder; expected files like \*\.jpg, "):
        find_pictures([tmp_path])
    save(tmp_path / "a.png", RGB)
    save(tmp_path / "a.jpg", RGB)
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png: the results of both would be called a\.png"):
        find_pictures([tmp_path])
