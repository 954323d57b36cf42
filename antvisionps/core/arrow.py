"""Arrow arrays without pandas. `pa.array` imports it, where there is one, to see whether it was given a Series: half a
second in every process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

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


@dataclass(frozen=True, eq=False)
class Labels:
    """n texts of which few differ: codes (n,) int16 say which of the names each is. A name need not occur."""

    names: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Labels:
        code_of: dict[str, int] = {}
        codes = [code_of.setdefault(text, len(code_of)) for text in texts]
        return cls(tuple(code_of), np.array(codes, dtype=np.int16))

    @classmethod
    def join(cls, parts: Sequence[Labels]) -> Labels:
        """Each part's texts after those of the parts before."""
        names = tuple(dict.fromkeys(chain.from_iterable(part.names for part in parts)))
        code_of = {name: code for code, name in enumerate(names)}
        new_code = {part.names: np.array([code_of[name] for name in part.names], dtype=np.int16) for part in parts}
        return cls(names, np.concatenate([new_code[part.names][part.codes] for part in parts]))

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes.tolist())

    def __getitem__(self, place: int) -> str:
        return self.names[self.codes[place]]

    def to_arrow(self) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(numbers_to_arrow(self.codes), texts_to_arrow(self.names))
