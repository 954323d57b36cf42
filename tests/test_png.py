import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from antvisionps.coco_panoptic import rgb_to_segment_ids
from antvisionps.png import encode_flat_numbers


def picture(hw=(37, 23)):
    return np.random.default_rng(0).integers(0, 256, hw, dtype=np.uint8)


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
