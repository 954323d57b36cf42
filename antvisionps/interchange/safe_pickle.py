"""Pickles of numbers, without running what they ask for: of all that a pickle may call only what builds lists, dicts,
numpy arrays and torch tensors is known here. Tensors become numpy arrays, without torch.

A pickle also sets the state of whatever it has built, and numpy's own objects believe every state. So arrays and dtypes
are stand-ins, which check theirs, until the pickle has ended.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from antvisionps.core.errors import PredictionsError, first_line
from antvisionps.core.input_files import open_file
from antvisionps.interchange.numpy_files import UNREADABLE

BROKEN = (*UNREADABLE, pickle.UnpicklingError, AttributeError, LookupError)
"""What reading a pickle raises that is cut off, or made by hand."""

_DTYPE_OF_STORAGE = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


_NUMBERS = re.compile("[biuf][1-8]")
"""numpy's dtypes of booleans, whole numbers and floats."""


class StrangeCallError(pickle.UnpicklingError):
    """A pickle that calls something else. Its text is the name of that."""


def load_numbers(path: Path) -> Any:
    """What the pickle holds. Raises PredictionsError on a broken file, and on one that calls anything else, of which
    nothing has run then."""
    try:
        with open_file(path) as file:
            return _without_stand_ins(_Numbers(file).load(), {})
    except StrangeCallError as error:
        raise PredictionsError(
            f"{path}: its pickle calls {error}, which is not run; expected lists, dicts, numpy arrays and tensors; if "
            "you trust the file, load it in Python and give each of its results to antvisionps.Writer"
        ) from error
    except BROKEN as error:
        raise PredictionsError(f"{path}: no readable pickle ({first_line(error)}); write it again") from error


class _Numbers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise StrangeCallError(f"{module}.{name}")
        return known


class _Dtype:
    """numpy's dtype of numbers; its state tells the order of bytes."""

    def __init__(self, name: str, *_: Any) -> None:
        if not _NUMBERS.fullmatch(name):
            raise ValueError(f"expected arrays of numbers, got {name}")
        self.of_numpy = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.of_numpy = self.of_numpy.newbyteorder(state[1])


class _Array:
    """numpy's array, whose state is its content."""

    def __init__(self, *_: Any) -> None:
        self.numbers: np.ndarray = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.numbers = _to_array(content, dtype, shape, "F" if is_fortran else "C").numbers


def _to_array(content: bytes, dtype: _Dtype, shape: Sequence[int], order: str) -> _Array:
    """Raises ValueError unless the content is of that shape."""
    array = _Array()
    sides = [max(0, side) for side in shape]
    array.numbers = np.frombuffer(bytes(content), dtype.of_numpy).reshape(sides, order="F" if order == "F" else "C")
    return array


def _to_number(dtype: _Dtype, content: bytes) -> Any:
    (number,) = np.frombuffer(bytes(content), dtype.of_numpy).tolist()
    return number


class _StorageRecord(NamedTuple):
    """How torch names the numbers behind a tensor: ("storage", type, key, place, length, view)."""

    dtype: str
    length: int


class _StorageNumbers(_Numbers):
    def persistent_load(self, found: Any) -> _StorageRecord:
        _, dtype, _, _, length, *_ = found
        return _StorageRecord(dtype, length)


def _load_storage(blob: bytes) -> _Array:
    """The flat numbers of `torch.storage._load_from_bytes`, in the format of torch.save before its zip: magic number,
    version, system, storage and list of keys as pickles; then the length in 8 bytes, and the numbers."""
    file = io.BytesIO(blob)
    for _ in range(3):
        _Numbers(file).load()
    record = _StorageNumbers(file).load()
    _Numbers(file).load()
    length = int.from_bytes(file.read(8), "little")
    array = _Array()
    array.numbers = np.frombuffer(file.read(), dtype=record.dtype)
    if not length == len(array.numbers) == record.length:
        raise ValueError(f"expected a tensor of {record.length} numbers, got {len(array.numbers)}")
    return array


def _build_tensor(storage: _Array, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> _Array:
    """A copy of torch's view of its storage. Raises ValueError where it would leave it."""
    numbers = storage.numbers
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(numbers)):
        raise ValueError(f"a tensor of {tuple(size)} leaves its {len(numbers)} numbers")
    array = _Array()
    strides = [step * numbers.itemsize for step in stride]
    array.numbers = np.lib.stride_tricks.as_strided(numbers[offset:], size, strides).copy()
    return array


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise ValueError(f"expected bytes as latin1, got {encoding}")
    return text.encode(encoding)


def _no_bytes() -> bytes:
    return b""


def _without_stand_ins(value: Any, known: dict[int, Any]) -> Any:
    """The value with arrays for stand-ins. `known`: what was found by id, as a pickle may have one thing many times."""
    if isinstance(value, _Array):
        return value.numbers
    if not isinstance(value, list | tuple | dict):
        return value
    if id(value) not in known:
        known[id(value)] = None  # where it is inside itself
        if isinstance(value, dict):
            known[id(value)] = {key: _without_stand_ins(one, known) for key, one in value.items()}
        else:
            known[id(value)] = type(value)(_without_stand_ins(one, known) for one in value)
    return known[id(value)]


_KNOWN: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "scalar"): _to_number,
    ("numpy._core.numeric", "_frombuffer"): _to_array,
    ("torch._utils", "_rebuild_tensor_v2"): _build_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    **{("torch", name): dtype for name, dtype in _DTYPE_OF_STORAGE.items()},
}
"""Module and name in a pickle → what is called in its place."""
