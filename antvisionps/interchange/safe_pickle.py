"""Pickles of numbers, without running what they ask for: of all that a pickle may call only what builds lists, dicts,
numpy arrays and torch tensors is known here. Tensors become numpy arrays, without torch.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.core.input_files import open_file
from antvisionps.interchange.numpy_files import UNREADABLE, reason

BROKEN = (*UNREADABLE, pickle.UnpicklingError, AttributeError, LookupError)
"""What reading a pickle raises that is cut off, or made by hand."""

_DTYPE_OF_STORAGE = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class StrangeCallError(pickle.UnpicklingError):
    """A pickle that calls something else. Its text is the name of that."""


def load_numbers(path: Path) -> Any:
    """What the pickle holds. Raises PredictionsError on a broken file, and on one that calls anything else, of which
    nothing has run then."""
    try:
        with open_file(path) as file:
            return _Numbers(file).load()
    except StrangeCallError as error:
        raise PredictionsError(
            f"{path}: its pickle calls {error}, which is not run; expected lists, dicts, numpy arrays and tensors; if "
            "you trust the file, load it in Python and give each of its results to antvisionps.Writer"
        ) from error
    except BROKEN as error:
        raise PredictionsError(f"{path}: no readable pickle ({reason(error)}); write it again") from error


class _Numbers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise StrangeCallError(f"{module}.{name}")
        return known


class _StorageRecord(NamedTuple):
    """How torch names the numbers behind a tensor: ("storage", type, key, place, length, view)."""

    dtype: Any
    length: int


class _StorageNumbers(_Numbers):
    def persistent_load(self, found: Any) -> _StorageRecord:
        _, dtype, _, _, length, *_ = found
        return _StorageRecord(np.dtype(dtype), int(length))


def _load_storage(blob: bytes) -> np.ndarray:
    """The flat numbers of `torch.storage._load_from_bytes`, in the format of torch.save before its zip: magic number,
    version, system, storage and list of keys as pickles; then the length in 8 bytes, and the numbers."""
    file = io.BytesIO(blob)
    for _ in range(3):
        _Numbers(file).load()
    record = _StorageNumbers(file).load()
    _Numbers(file).load()
    length = int.from_bytes(file.read(8), "little")
    numbers = np.frombuffer(file.read(), dtype=record.dtype)
    if not length == len(numbers) == record.length:
        raise ValueError(f"expected a tensor of {record.length} numbers, got {len(numbers)}")
    return numbers


def _build_tensor(numbers: np.ndarray, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A copy of torch's view of its storage. Raises ValueError where it would leave it."""
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(numbers)):
        raise ValueError(f"a tensor of {tuple(size)} leaves its {len(numbers)} numbers")
    strides = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], size, strides).copy()


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise ValueError(f"expected bytes as latin1, got {encoding}")
    return text.encode(encoding)


def _callable_of(value: Any, *, protocol: SupportsIndex) -> Callable[..., Any]:
    """What a pickle of the value calls."""
    called: Callable[..., Any] = value.__reduce_ex__(protocol)[0]
    return called


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): bytes,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _callable_of(np.zeros(0), protocol=2),
    ("numpy._core.multiarray", "scalar"): _callable_of(np.float64(0), protocol=2),
    ("numpy._core.numeric", "_frombuffer"): _callable_of(np.zeros(0), protocol=5),
    ("torch._utils", "_rebuild_tensor_v2"): _build_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    **{("torch", name): dtype for name, dtype in _DTYPE_OF_STORAGE.items()},
}
"""Module and name in a pickle → what is called in its place."""
