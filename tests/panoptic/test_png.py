import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

from antvisionps.panoptic.png import decode_labels, decode_segment_ids, encode_segment_ids


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


LABELS = np.array([[0, 1, 7], [7, 255, 1]], dtype=np.uint8)


def png_of(picture, **options):
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_chunk(png, name, content):
    """Between its header and its pixels."""
    chunk = name + content
    return png[:33] + struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def a_palette(indices):
    palette = Image.fromarray(indices, "L").convert("P")
    palette.putdata(indices.ravel().tolist())
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    return palette


@pytest.mark.parametrize(
    "png",
    [
        png_of(LABELS),
        png_of(LABELS.astype(np.uint16)),
        png_of(Image.fromarray(LABELS).convert("LA")),
        png_of(LABELS, transparency=7),
        png_of(a_palette(LABELS)),
        png_of(a_palette(LABELS), transparency=bytes(9)),
        with_chunk(png_of(LABELS), b"gAMA", struct.pack(">I", 100_000)),
        with_chunk(png_of(LABELS), b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"),
        png_of(LABELS, save_all=True, append_images=[Image.fromarray(LABELS[::-1])]),
    ],
    ids=["grey", "grey16", "grey+alpha", "grey+tRNS", "palette", "palette+tRNS", "gamma", "exif", "animated"],
)
def test_labels_are_grey_values_or_a_palettes_indices(png):
    np.testing.assert_array_equal(decode_labels(png), LABELS)


def test_a_1_bit_png_holds_0_and_1():
    bits = LABELS == 7
    for decode in (decode_labels, decode_segment_ids):
        np.testing.assert_array_equal(decode(png_of(bits)), bits)
    np.testing.assert_array_equal(decode_labels(png_of(a_palette(bits.astype(np.uint8)), bits=1)), bits)


def test_16_bit_grey_holds_category_and_instance():
    ids = np.array([[26_001, 7], [0, 65_535]], dtype=np.uint16)
    for decode in (decode_labels, decode_segment_ids):
        np.testing.assert_array_equal(decode(png_of(ids)), ids)


def interlaced(rgb):
    """Of one pixel, which is all in the first of Adam7's passes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for name, content in ((b"IDAT", zlib.compress(bytes([0, *rgb]))), (b"IEND", b"")):
        png += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png


def test_panoptic_ids_ignore_all_but_the_colours():
    ids = np.array([[5, 300], [70_000, 0]])
    png = png_of(id2rgb(ids))
    frames = png_of(id2rgb(ids), save_all=True, append_images=[Image.fromarray(255 - id2rgb(ids))])
    for same in (png, with_chunk(png, b"gAMA", struct.pack(">I", 1)), with_chunk(png, b"tEXt", b"a\0b"), frames):
        np.testing.assert_array_equal(decode_segment_ids(same), ids)
    np.testing.assert_array_equal(decode_segment_ids(interlaced((1, 2, 3))), [[1 + 2 * 256 + 3 * 256**2]])


def test_a_damaged_png_is_refused_wherever_it_is_damaged():
    """An animation among them: OpenCV ends the process at some of its damages."""
    ids = np.random.default_rng(0).integers(0, 2**24, (9, 11))
    animated = png_of(id2rgb(ids), save_all=True, append_images=[Image.fromarray(255 - id2rgb(ids))])
    rng = np.random.default_rng(1)
    for png in (png_of(id2rgb(ids)), animated):
        for place in range(len(png)):
            spoilt = bytearray(png)
            spoilt[place] ^= int(rng.integers(1, 256))
            for content in (bytes(spoilt), png[:place]):
                with contextlib.suppress(ValueError):
                    np.testing.assert_array_equal(decode_segment_ids(content), ids)


@pytest.mark.parametrize("png", [png_of(np.zeros((2, 2, 3), np.uint8)), png_of(np.zeros((2, 2, 4), np.uint8))])
def test_labels_in_three_channels_are_refused(png):
    with pytest.raises(ValueError, match=r"a grey or palette PNG.*, got RGB"):
        decode_labels(png)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" * 30])
def test_what_is_no_png_is_refused(content):
    for decode in (decode_labels, decode_segment_ids):
        with pytest.raises(ValueError, match="truncated, corrupt or no PNG"):
            decode(content)
