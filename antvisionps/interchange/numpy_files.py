"""numpy's files of arrays. A header is checked before memory is taken for what it announces, and nothing is unpickled.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Set
from pathlib import Path
from typing import IO

import numpy as np

from antvisionps.core.input_files import open_file

MAX_DEFLATION = 1032
"""Deflate shortens no data by more."""

_READERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""Format 3.0 is for arrays of records with names beyond ASCII alone."""

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the two readers below raise on files that are broken, encrypted or other than they say."""


def read_npy(path: Path) -> np.ndarray:
    """The array. Raises one of UNREADABLE."""
    with open_file(path) as file:
        _check_header(file, path.stat().st_size)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path, names: Set[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that the file holds. Raises one of UNREADABLE."""
    arrays = {}
    with open_file(path) as opened, zipfile.ZipFile(opened) as archive:
        for member in archive.infolist():
            archive.open(member).close()  # compares its two names: damage to one makes an optional array absent
        for name in sorted(name for name in names if f"{name}.npy" in archive.namelist()):
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"expected {member.filename} stored or deflated, as numpy writes it")
            with archive.open(member) as file:
                _check_header(file, min(member.file_size, MAX_DEFLATION * member.compress_size))
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def whole_numbers(array: np.ndarray) -> np.ndarray:
    """The same as int64, also of floats that are whole. Raises ValueError on fractions, NaN and other types."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"expected integers, got {array.dtype}")
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    # An id beyond 2⁵³ is no float's and no map's.
    is_whole = (np.abs(array) < 2**53) & (np.rint(array) == array)
    if not is_whole.all():
        raise ValueError(f"expected whole numbers, got {array[~is_whole].ravel()[0]}")
    return array.astype(np.int64)


def _check_header(file: IO[bytes], file_bytes: int) -> None:
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"expected numpy's format 1.0 or 2.0, got {version[0]}.{version[1]}")
    shape, _, dtype = _READERS[version](file)
    if dtype.hasobject:
        raise ValueError("its array is of Python objects, which only a pickle could restore; expected numbers")
    announced, there = math.prod(shape) * dtype.itemsize, file_bytes - file.tell()
    if not 0 <= announced <= there:
        raise ValueError(f"its header announces {announced} bytes, {dtype} {shape}, and there are {max(there, 0)}")
