"""Arrow arrays without pandas. `pa.array` imports it, where there is one, to see whether it was given a Series: half a
second in every process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def numbers_to_arrow(values: np.ndarray, *, is_missing: np.ndarray | None = None) -> pa.Array:
    """The (n,) numbers as they lie in memory; null where (n,) bool `is_missing`."""
    values = np.ascontiguousarray(values)
    valid = None if is_missing is None else pa.py_buffer(np.packbits(~is_missing, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, pa.py_buffer(values)])


def texts_to_arrow(texts: Sequence[str]) -> pa.Array:
    """The n texts, of which few differ."""
    encoded_of = {text: text.encode() for text in set(texts)}
    encoded = [encoded_of[text] for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum(list(map(len, encoded)), out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)
