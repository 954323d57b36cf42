"""Maps of segments as PNGs, written quickly.

libpng works row by row and looks for whatever repeats. Of a map all that matters are its runs: filtered with the
difference to the row above, its rows are 0 but where two runs, one in each of two rows, do not end together. Only there
`png_kernels.py` looks, so it takes a time that grows with the number of runs and hardly of pixels. It is arithmetic of
whole numbers: the bytes are the same on every machine. Format: https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

MAX_SEGMENT_ID = 256**3 - 1
"""The largest id that three bytes of colour can hold."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bit depth, colour type, compression, filter and interlace methods.
_RGB_8_BIT = (8, 2, 0, 0, 0)


def rgb_to_segment_ids(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (H, W) int32: R + 256 G + 256² B."""
    return _pack(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA))


def segment_ids_to_rgb(segment_ids: np.ndarray) -> np.ndarray:
    """(H, W) integers from 0 to 256³ - 1 → (H, W, 3) uint8 RGB. Raises ValueError on an id out of that range."""
    return cv2.cvtColor(_unpack(segment_ids), cv2.COLOR_RGBA2RGB)


def decode_segment_ids(png: bytes) -> np.ndarray:
    """Raises ValueError on anything but a whole 8-bit RGB PNG; OpenCV returns nothing for a truncated one."""
    bgr = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if bgr is None:
        raise ValueError("truncated, corrupt or no PNG")
    if bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
        channels = bgr.shape[2] if bgr.ndim == 3 else 1
        raise ValueError(f"8-bit RGB expected (ids are R + 256 G + 256² B), got {channels} channels of {bgr.dtype}")
    return _pack(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA))


def load_png_kernels() -> None:
    """Loads the compiled encoder, or compiles it, which else each process does when it needs it."""
    import antvisionps.panoptic.png_kernels  # noqa: F401


def write_segment_ids_png(path: Path, segment_ids: np.ndarray) -> None:
    """Writes (H, W) segment ids as COCO's panoptic format has them."""
    path.write_bytes(encode_flat_numbers(segment_ids))


def encode_flat_numbers(numbers: np.ndarray) -> bytes:
    """(height, width) integers R + 256 G + 256² B as an RGB PNG that is small where most pixels equal the one above.

    Raises ValueError on a number that is none.
    """
    flat = numbers.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    return encode_runs(np.diff(starts, append=flat.size), flat[starts], width=numbers.shape[1])


def encode_runs(lengths: np.ndarray, numbers: np.ndarray, *, width: int) -> bytes:
    """The same from the map's runs in raster order: lengths (R,) above 0, of whole rows together, and numbers (R,)."""
    from antvisionps.panoptic.png_kernels import deflate_map, largest_deflated

    if not 0 <= numbers.min() <= numbers.max() < 2**24:
        raise ValueError(f"numbers go from {numbers.min()} to {numbers.max()}; 0 to {2**24 - 1} fit")
    pixels = int(lengths.sum())
    height = pixels // width
    out = np.empty(largest_deflated(runs=len(lengths), height=height, width=width), dtype=np.uint8)
    lengths, numbers = (np.ascontiguousarray(column, dtype=np.int32) for column in (lengths, numbers))
    size = deflate_map(lengths, numbers, width, pixels, out)
    header = struct.pack(">II5B", width, height, *_RGB_8_BIT)
    chunks = ((b"IHDR", header), (b"IDAT", out[:size].tobytes()), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pack(rgba: np.ndarray) -> np.ndarray:
    """Each pixel as one little-endian integer without its alpha: five times as fast as arithmetic on the planes."""
    return rgba.view("<i4")[..., 0] & MAX_SEGMENT_ID


def _unpack(segment_ids: np.ndarray) -> np.ndarray:
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"segment ids go from {segment_ids.min()} to {segment_ids.max()}; 0 to {MAX_SEGMENT_ID} fit")
    return np.ascontiguousarray(segment_ids, dtype="<i4").view(np.uint8).reshape(*segment_ids.shape, 4)
