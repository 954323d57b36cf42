"""Photos of any kind as upright RGB, and a clear refusal of what is none."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from antvisionps.panoptic.photo import OtherSizeError, read_hw, read_orientation, read_photo

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_comes_upright_as_pillow_and_opencv_turn_it(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=oriented(orientation))
    photo = read_photo(path)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(photo.rgb, ImageOps.exif_transpose(picture).convert("RGB"))
    assert photo.orientation == orientation
    assert photo.rgb.shape[:2] == read_hw(path) == ((9, 6) if orientation > 4 else (6, 9))
    if suffix == "jpg":
        assert photo.rgb.shape == cv2.imread(str(path)).shape


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    png, exif = buffer.getvalue(), oriented(6).tobytes()[6:]
    chunk = b"eXIf" + exif
    late = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path = tmp_path / "a.png"
    path.write_bytes(png[:-12] + late + png[-12:])
    np.testing.assert_array_equal(read_photo(path, hw=(9, 6)).rgb, np.rot90(RGB, -1))
    assert read_hw(path) == (9, 6)


def test_broken_exif_is_ignored_without_a_warning(tmp_path):
    """Every byte of it spoilt in turn, and cut anywhere; warnings are errors here."""
    whole = oriented(1)
    whole[0x010F] = "maker"
    whole[0x011A] = 72.0
    block = whole.tobytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    for place in range(len(block)):
        spoilt = bytearray(block)
        spoilt[place] = rng.integers(256)
        for exif in (bytes(spoilt), block[: max(6, place)]):
            Image.fromarray(RGB).save(path, exif=exif)
            assert sorted(read_photo(path).rgb.shape) == [3, 6, 9]
            assert read_orientation(path) in range(1, 9)


def test_another_size_is_refused_before_the_pixels_are_decoded(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    png = bytearray(path.read_bytes())
    png[-30] ^= 1  # a damaged pixel that nobody meets
    path.write_bytes(png)
    with pytest.raises(OtherSizeError, match="it has 6 x 9 px"):
        read_photo(path, hw=(6, 10))
    with pytest.raises(ValueError, match="broken"):
        read_photo(path, hw=(6, 9))


def test_more_pixels_than_fit_are_refused_by_the_header(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    png = path.read_bytes()
    ihdr = b"IHDR" + struct.pack(">II", 30_000, 30_000) + png[24:29]
    path.write_bytes(png[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + png[33:])
    with pytest.raises(ValueError, match="more than 178956970 pixels; shrink it or cut it up"):
        read_photo(path)


def test_a_large_photo_is_no_warning(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (9_500, 9_500)).save(path)  # more than where Pillow warns, which is an error here
    with pytest.raises(OtherSizeError):
        read_photo(path, hw=(1, 1))


def test_transparent_colors_interlacing_gamma_and_frames_change_nothing(tmp_path):
    path = tmp_path / "a.png"
    grey = Image.fromarray(RGB[..., 0])
    gamma = b"gAMA" + struct.pack(">I", 100_000)
    for picture, options in (
        (Image.fromarray(RGB), {"transparency": tuple(RGB[0, 0].tolist())}),
        (grey, {"transparency": int(RGB[0, 0, 0])}),
        (Image.fromarray(RGB).quantize(9), {"transparency": bytes(range(9))}),
        (Image.fromarray(RGB), {"save_all": True, "append_images": [Image.fromarray(255 - RGB)]}),
    ):
        picture.save(path, **options)
        png = path.read_bytes()
        path.write_bytes(png[:33] + struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma)) + png[33:])
        np.testing.assert_array_equal(read_photo(path).rgb, picture.convert("RGB"))


@pytest.mark.parametrize("content", [b"", b"\0", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_said_in_words(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated, corrupt or of no format that Pillow reads"):
        read_photo(path)
    with pytest.raises(ValueError):
        read_hw(path)


def test_the_suffix_does_not_matter(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, "BMP")
    np.testing.assert_array_equal(read_photo(path).rgb, RGB)
