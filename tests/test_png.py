import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from antvisionps import png as png_module
from antvisionps.coco_panoptic import rgb_to_segment_ids
from antvisionps.png import decode_grey_png, encode_flat_numbers

FILTERS = ["NONE", "SUB", "UP", "AVG", "PAETH"]


def picture(hw=(37, 23)):
    return np.random.default_rng(0).integers(0, 256, hw, dtype=np.uint8)


def encode(image, filter_name="NONE"):
    settings = (cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_FILTER_{filter_name}"))
    return cv2.imencode(".png", image, settings)[1].tobytes()


@pytest.mark.parametrize("filter_name", FILTERS)
def test_a_png_of_any_filter_is_read(filter_name):
    np.testing.assert_array_equal(decode_grey_png(encode(picture(), filter_name)), picture())


def test_an_unfiltered_png_needs_no_opencv(monkeypatch):
    monkeypatch.setattr(png_module, "cv2", None)
    np.testing.assert_array_equal(decode_grey_png(encode(picture())), picture())


def test_data_in_many_chunks_and_other_chunks_between_are_read():
    file = io.BytesIO()
    large = picture((700, 500))
    Image.fromarray(large).save(file, "PNG", dpi=(72, 72))
    np.testing.assert_array_equal(decode_grey_png(file.getvalue()), large)


@pytest.mark.parametrize("image", [picture((9, 8, 3)), picture().astype(np.uint16) * 300])
def test_what_is_not_8_bit_grey_is_left_to_opencv(image):
    np.testing.assert_array_equal(decode_grey_png(encode(image)), image)


def test_what_is_no_whole_png_is_none():
    png = encode(picture())
    for broken in (b"", b"\x89PNG", b"not a PNG", png[: len(png) // 2], png[8:]):
        assert decode_grey_png(broken) is None


def test_a_flipped_bit_in_the_data_does_not_go_unnoticed():
    png = bytearray(encode(picture()))
    png[len(png) // 2] ^= 4
    assert decode_grey_png(bytes(png)) is None


@pytest.mark.parametrize("hw", [(1, 1), (1, 5), (7, 1), (480, 640)])
def test_rgb_comes_back_through_pillow_and_opencv(hw):
    rgb = picture((*hw, 3))
    rgb[:, : hw[1] // 2] = (1, 0, 255)
    png = encode_flat_numbers(rgb_to_segment_ids(rgb))
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), rgb)
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded[..., ::-1], rgb)


@pytest.mark.parametrize("flat", [0.0, 0.5, 0.98, 1.0])
def test_a_map_is_deflated_as_zlib_itself_deflates_runs(flat):
    """And so into the same bytes on every machine."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**24, (64, 96))
    numbers[rng.random(64) < flat] = 7
    png = encode_flat_numbers(numbers)
    (length,) = struct.unpack_from(">I", png, 33)
    data = png[41 : 41 + length]
    deflate = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    assert data == deflate.compress(zlib.decompress(data)) + deflate.flush()
