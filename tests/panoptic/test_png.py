import hashlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from antvisionps.panoptic.png import encode_flat_numbers, encode_runs, rgb_to_segment_ids


def to_rgb(numbers):
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8)


def data_of(png):
    """The zlib stream. Raises where a chunk's CRC is wrong."""
    place, data = 8, b""
    while place < len(png):
        (length,), kind = struct.unpack_from(">I", png, place), png[place + 4 : place + 8]
        content = png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length) == (zlib.crc32(kind + content),)
        data += content if kind == b"IDAT" else b""
        place += 12 + length
    return data


def assert_comes_back(numbers):
    png = encode_flat_numbers(numbers)
    rgb = to_rgb(numbers)
    height, width = numbers.shape
    # zlib's own check of the rows, Adler-32, fails where they, their order or their number are wrong.
    assert len(zlib.decompress(data_of(png))) == height * (1 + 3 * width)
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), rgb)
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded[..., ::-1], rgb)
    return png


@pytest.mark.parametrize("hw", [(1, 1), (1, 5), (7, 1), (480, 640)])
def test_rgb_comes_back_through_pillow_and_opencv(hw):
    rgb = np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)
    rgb[:, : hw[1] // 2] = (1, 0, 255)
    assert_comes_back(rgb_to_segment_ids(rgb))


def test_maps_of_any_structure_come_back():
    """Of few and many pixels, runs and numbers, below and above one byte."""
    rng = np.random.default_rng(1)
    for _ in range(400):
        height, width = (int(2 ** rng.uniform(0, 7)) for _ in range(2))
        cell = int(rng.integers(1, 40))
        numbers = rng.integers(0, 2 ** rng.integers(1, 25), (1 + height // cell, 1 + width // cell))
        numbers = np.kron(numbers, np.ones((cell, cell), dtype=np.int64))[:height, :width]
        is_noise = rng.random(numbers.shape) < rng.choice([0, 0.01, 0.5])
        assert_comes_back(np.where(is_noise, rng.integers(0, 2**24, numbers.shape), numbers))


@pytest.mark.parametrize("width", [*range(84, 92), *range(170, 176), 257, 258, 259, 5000])
def test_matches_of_any_length_come_back(width):
    """Of zeros, where a row repeats the one above, and of pixels, where a whole row differs from it by the same."""
    numbers = np.zeros((8, width), dtype=np.int64)
    numbers[1:3] = 0x010203
    numbers[5] = 7
    numbers[6:, 1:] = np.arange(width - 1) % 2
    assert_comes_back(numbers)


def test_a_code_that_would_be_too_long_is_shortened():
    """Bytes as often as Fibonacci's numbers have a code of more than 15 bits, which deflate cannot tell."""
    often = [1, 1]
    while len(often) < 24:
        often.append(often[-1] + often[-2])
    bytes_of_row = np.repeat(np.arange(24) * 9 + 20, often)
    bytes_of_row = np.random.default_rng(0).permutation(bytes_of_row)
    numbers = bytes_of_row[None, :]
    png = assert_comes_back(numbers)
    assert len(png) < numbers.size


def test_runs_give_the_same_png_as_their_map():
    lengths, numbers = np.array([5, 3, 9, 1, 12], dtype=np.int32), np.array([4, 0, 4, 300, 2], dtype=np.int32)
    assert encode_runs(lengths, numbers, width=6) == encode_flat_numbers(np.repeat(numbers, lengths).reshape(5, 6))


def test_a_map_is_smaller_than_by_zlib_looking_for_runs():
    rows = np.arange(240)[:, None]
    columns = np.arange(320)[None, :]
    numbers = 1 + (rows + 20 * np.sin(columns / 30) > 120) + 2 * ((rows - 90) ** 2 + (columns - 160) ** 2 < 60**2)
    data = data_of(assert_comes_back(numbers.astype(np.int64)))
    runs = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    assert len(data) < len(runs.compress(zlib.decompress(data)) + runs.flush())


def test_every_machine_writes_the_same_bytes():
    rng = np.random.default_rng(3)
    numbers = np.kron(rng.integers(0, 300, (12, 16)), np.ones((9, 7), dtype=np.int64))
    png = encode_flat_numbers(numbers)
    assert hashlib.sha256(png).hexdigest() == "9d8b5859665520fc5d40bc08a27c2f89b1a9c3e079e4535f4a303e3cd9188fea"


@pytest.mark.parametrize("number", [-1, 2**24])
def test_numbers_that_are_no_colour_are_refused(number):
    with pytest.raises(ValueError, match=f"{number}.*fit"):
        encode_flat_numbers(np.array([[0, number]]))
