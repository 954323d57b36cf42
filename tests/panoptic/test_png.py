import io
import zlib

import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.panoptic.png import decode_segment_ids, encode_runs, encode_segment_ids


def assert_comes_back(segment_ids):
    png = encode_segment_ids(segment_ids)
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), id2rgb(segment_ids))
    np.testing.assert_array_equal(decode_segment_ids(png), segment_ids)


def test_maps_of_any_structure_come_back():
    """Of few and many pixels, runs and ids, below and above one byte."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width = (int(2 ** rng.uniform(0, 7)) for _ in range(2))
        cell = int(rng.integers(1, 40))
        ids = rng.integers(0, 2 ** rng.integers(1, 25), (1 + height // cell, 1 + width // cell))
        assert_comes_back(np.kron(ids, np.ones((cell, cell), dtype=np.int64))[:height, :width])


def test_runs_give_the_png_of_their_map():
    lengths, ids = np.array([5, 3, 9, 1, 12], dtype=np.int32), np.array([4, 0, 4, 300, 2], dtype=np.int32)
    png = encode_runs(lengths, ids, width=6)
    drawn = """4 4 4 4 4 0  0 0 4 4 4 4  4 4 4 4 4 300  2 2 2 2 2 2  2 2 2 2 2 2"""
    with Image.open(io.BytesIO(png)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), id2rgb(np.array(drawn.split(), dtype=int).reshape(5, 6)))


def test_a_map_takes_few_bytes_and_always_the_same():
    rows, columns = np.arange(240)[:, None], np.arange(320)[None, :]
    ids = 1 + (rows + 20 * np.sin(columns / 30) > 120) + 2 * ((rows - 90) ** 2 + (columns - 160) ** 2 < 60**2)
    png = encode_segment_ids(ids)
    content = png.index(b"IDAT") + 4
    rows_of_png = zlib.decompressobj().decompress(png[content:])
    by_zlib = zlib.compressobj(level=1, strategy=zlib.Z_RLE)  # of every machine
    assert png[content:].startswith(by_zlib.compress(rows_of_png) + by_zlib.flush())
    assert len(encode_segment_ids(ids)) < ids.size / 25


@pytest.mark.parametrize("segment_id", [-1, 2**24])
def test_ids_that_are_no_colour_are_refused(segment_id):
    with pytest.raises(ValueError, match=f"{segment_id}.*fit"):
        encode_segment_ids(np.array([[0, segment_id]]))
