"""Grey PNGs read quickly.

libpng undoes filters row by row and feeds zlib in small pieces. The PNGs of the cache are written without filters, and
then an image is nothing but its inflated rows with a zero before each, which takes less than half of the time. Any
other PNG is left to OpenCV. Format: https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = (8, 0, 0, 0, 0)  # bit depth, colour type, compression, filter and interlace methods


def decode_grey_png(png: bytes) -> np.ndarray | None:
    """What OpenCV decodes from it, (height, width) uint8 for an 8-bit grey one; None if it is not a whole PNG."""
    grey = _decode_unfiltered(png)
    if grey is None and png:
        return cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    return grey


def _decode_unfiltered(png: bytes) -> np.ndarray | None:
    """None unless it is a whole 8-bit grey PNG without interlacing whose rows are all unfiltered."""
    try:
        chunks = list(_chunks(png))
        kind, header = chunks[0]
        width, height, *methods = struct.unpack(">II5B", header)
        if kind != b"IHDR" or tuple(methods) != _GREY_8_BIT or chunks[-1][0] != b"IEND":
            return None
        rows = zlib.decompress(
            b"".join(data for kind, data in chunks if kind == b"IDAT"), bufsize=max(1, height * (1 + width))
        )
    except (struct.error, zlib.error, IndexError):
        return None
    if len(rows) != height * (1 + width):
        return None
    grid = np.frombuffer(rows, dtype=np.uint8).reshape(height, 1 + width)
    return None if grid[:, 0].any() else grid[:, 1:]


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk. Raises struct.error where one is cut off. zlib's checksum stands in for the CRCs."""
    place = len(_SIGNATURE) if png.startswith(_SIGNATURE) else len(png) + 1
    while place != len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        if place + 12 + length > len(png):
            raise struct.error("chunk cut off")
        yield kind, png[place + 8 : place + 8 + length]
        place += 12 + length
