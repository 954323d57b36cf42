"""Maps as PNGs: panoptic ones, segment id = R + 256 G + 256² B (https://cocodataset.org/#format-data), and label maps.

One rule for truth and predictions: alpha is dropped; a palette's colours are a panoptic map's ids, and its indices a
label map's labels (PASCAL VOC, mmsegmentation); a grey PNG's values, 8-bit or 16-bit, are ids and labels themselves,
and 0 and 1 of a 1-bit one.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import kornia_rs.io as kornia
import numpy as np
from PIL import Image
from zlib_ng import zlib_ng

MAX_SEGMENT_ID = 256**3 - 1
"""The largest id that three bytes of colour can hold."""

MAX_PIXELS = 2 * 89_478_485
"""A picture of more is not decoded; Pillow has the same limit."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OF_THE_PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_DAMAGED = "truncated, corrupt or no PNG"
_UP = 2
"""PNG's filter: a row is stored as its difference to the row above, which is mostly 0 in a map."""


def rgb_to_segment_ids(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (H, W) int32: R + 256 G + 256² B."""
    return _pack(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA))


class PngHeader(NamedTuple):
    """Its size, and how a pixel is stored: one of the color types below, at so many bits a channel."""

    height: int
    width: int
    bits: int
    color_type: int

    @property
    def hw(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def meaning(self) -> str:
        """What its pixels say in a panoptic map, for errors; empty for RGB, as the format wants it."""
        return {_GREY: "grey, its values are the ids", _PALETTE: "a palette, its colours are the ids"}.get(
            self.color_type & ~_ALPHA, ""
        )


_GREY, _RGB, _PALETTE, _ALPHA = 0, 2, 3, 4
"""PNG's color types; grey and RGB may have alpha added."""


def read_header(png: bytes) -> PngHeader:
    """Without decoding a pixel. Raises ValueError on anything but a PNG, and on one of more than MAX_PIXELS."""
    if len(png) < len(_SIGNATURE) + 25 or png[: len(_SIGNATURE)] != _SIGNATURE or png[12:16] != b"IHDR":
        raise ValueError(_DAMAGED)
    width, height, bits, color_type = struct.unpack_from(">IIBB", png, 16)
    if width * height > MAX_PIXELS:
        raise ValueError(f"its {width}x{height} pixels are more than {MAX_PIXELS}; shrink it or cut it up")
    return PngHeader(height, width, bits, color_type)


def decode_segment_ids(png: bytes) -> np.ndarray:
    """(H, W) int32. Raises ValueError on anything but a whole PNG of at most 8 bits a channel, or 16 if grey."""
    header = read_header(png)
    if (header.color_type, header.bits) == (_RGB, 8):
        return rgb_to_segment_ids(_decode_rgb(png, header))
    pixels = _decode(png)
    if header.color_type in (_GREY, _GREY + _ALPHA):
        return _grey(header, pixels).astype(np.int32)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"8-bit RGB expected (ids are R + 256 G + 256² B), got 3 channels of {pixels.dtype}")
    return _pack(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGBA if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA))


def decode_labels(png: bytes) -> np.ndarray:
    """(H, W) uint8 or uint16, one label a pixel. Raises ValueError on anything but a whole grey or palette PNG."""
    header = read_header(png)
    if header.color_type == _PALETTE:
        return _palette_indices(png)
    if header.color_type not in (_GREY, _GREY + _ALPHA):
        raise ValueError("expected one channel of labels (a grey or palette PNG), got RGB")
    return _grey(header, _decode(png))


def _decode_rgb(png: bytes, header: PngHeader) -> np.ndarray:
    """(H, W, 3) uint8 of 8-bit RGB, which panoptic maps are. Kornia takes a quarter of OpenCV's time for it."""
    try:
        rgb: np.ndarray = kornia.decode_image_png_u8(_without_extras(png), header.hw, "rgb")
    except Exception as error:  # kornia has no class of its own for it
        raise ValueError(_DAMAGED) from error
    return rgb


def _decode(png: bytes) -> np.ndarray:
    """As OpenCV has it: (H, W) grey, or (H, W, C) BGR or BGRA; it returns nothing for a damaged PNG."""
    pixels = cv2.imdecode(np.frombuffer(_without_extras(png), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(_DAMAGED)
    return pixels


def _without_extras(png: bytes) -> bytes:
    """The chunks that make the picture: no text, no transparent color, no further frame, of which a damaged one crashes
    OpenCV."""
    kept = [chunk for chunk in _chunks(png) if chunk[4:8] in _OF_THE_PICTURE]
    are_whole = all(zlib_ng.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]) for chunk in kept)
    if not are_whole or kept[-1][4:8] != b"IEND":
        raise ValueError(_DAMAGED)
    return _SIGNATURE + b"".join(kept)


def _chunks(png: bytes) -> Iterator[bytes]:
    """Each with its length, name and checksum."""
    start, name = len(_SIGNATURE), b""
    while start < len(png) and name != b"IEND":
        stop = start + 12 + int.from_bytes(png[start : start + 4])
        yield png[start:stop]
        start, name = stop, png[start + 4 : start + 8]


def _grey(header: PngHeader, pixels: np.ndarray) -> np.ndarray:
    grey: np.ndarray = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])
    return grey // 255 if header.bits == 1 else grey


def _palette_indices(png: bytes) -> np.ndarray:
    """By Pillow: OpenCV has the colours only."""
    try:
        with Image.open(io.BytesIO(_without_extras(png))) as picture:
            return np.asarray(picture)
    except (OSError, SyntaxError) as error:
        raise ValueError(_DAMAGED) from error


def encode_segment_ids(segment_ids: np.ndarray) -> bytes:
    """The PNG of (H, W) integers from 0 to 256³ - 1; the same map gives the same bytes on every machine. Raises
    ValueError on others."""
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"segment ids go from {segment_ids.min()} to {segment_ids.max()}; 0 to {MAX_SEGMENT_ID} fit")
    height, width = segment_ids.shape
    rgba = np.ascontiguousarray(segment_ids, dtype="<i4").view(np.uint8).reshape(height, width, 4)
    rows = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB).reshape(height, 3 * width)
    filtered = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[:1, 1:] = rows[:1]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    # Z_RLE looks for repetitions of the last byte only: no hash table, whose bytes depend on the processor.
    deflate = zlib_ng.compressobj(level=1, strategy=zlib_ng.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8-bit RGB
    pixels = deflate.compress(filtered.data) + deflate.flush()
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib_ng.crc32(name + content))


def write_segment_ids_png(path: Path, segment_ids: np.ndarray) -> None:
    """Writes (H, W) segment ids as COCO's panoptic format has them."""
    path.write_bytes(encode_segment_ids(segment_ids))


def _pack(rgba: np.ndarray) -> np.ndarray:
    """Each pixel as one little-endian integer without its alpha: five times as fast as arithmetic on the planes.

    Overwrites `rgba`, for a large map's sake.
    """
    ids: np.ndarray = rgba.view("<i4")[..., 0]
    ids &= MAX_SEGMENT_ID
    return ids
