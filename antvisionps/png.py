"""Maps of segments as PNGs, written quickly.

libpng works row by row and feeds zlib in small pieces. Here a whole map is filtered with the one filter that suits it,
the difference to the row above, and deflated as runs of equal bytes, without any search for matches, by zlib-ng: so the
bytes are the same on every machine, and those of zlib. Format: https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from zlib_ng import zlib_ng

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth, colour type, compression, filter and interlace methods.
_RGB_8_BIT = (8, 2, 0, 0, 0)
_FILTER_UP = 2
_LEVEL, _WINDOW_BITS, _MOST_MEMORY = 1, 15, 9


def encode_flat_numbers(numbers: np.ndarray) -> bytes:
    """(height, width) integers R + 256 G + 256² B as an RGB PNG that is small where most pixels equal the one above.

    Raises ValueError on a number that is none.
    """
    height, width = numbers.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = _FILTER_UP
    # Few pixels differ from the one above, and only they are not 0 in the filtered rows.
    differs = np.ones(numbers.shape, dtype=bool)
    np.not_equal(numbers[1:], numbers[:-1], out=differs[1:])
    place = np.flatnonzero(differs)
    flat = numbers.ravel()
    here, above = flat[place], np.where(place < width, 0, flat[place - width])
    if here.size and not 0 <= here.min() <= here.max() < 2**24:
        raise ValueError(f"numbers go from {here.min()} to {here.max()}; 0 to {2**24 - 1} fit")
    y, x = np.divmod(place, width)
    begins = y * rows.shape[1] + 1 + 3 * x
    for channel in range(3 if here.max(initial=0) > 255 else 1):
        shift = 8 * channel
        rows.ravel()[begins + channel] = ((here >> shift) - (above >> shift)).astype(np.uint8)
    header = struct.pack(">II5B", width, height, *_RGB_8_BIT)
    chunks = ((b"IHDR", header), (b"IDAT", _deflate_runs(rows)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _deflate_runs(rows: np.ndarray) -> bytes:
    stream = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, _WINDOW_BITS, _MOST_MEMORY, zlib_ng.Z_RLE)
    return stream.compress(rows) + stream.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
