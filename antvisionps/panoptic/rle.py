"""COCO's compressed run lengths as arrays.

pycocotools decodes a mask to a full image; fusion only needs the few columns that a mask covers, so runs are parsed
here and painted on crops. The format: a mask is read column by column; the lengths of
its runs of 0 and 1 alternate (the first is of 0); from the fourth on, a length is stored as its difference to the one
two before; each number is written as little-endian groups of 5 bits and a continuation bit, in characters from '0' on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_FIRST_CHARACTER = 48
_CONTINUES, _SIGN, _PAYLOAD, _BITS = 0x20, 0x10, 0x1F, 5
_MAX_CHARACTERS = 7  # 35 bits: no image has more pixels


@dataclass(frozen=True)
class MaskRuns:
    """The runs of N masks of one image, concatenated. Positions count pixels column by column from the top left.

    `starts` and `stops` (R,) int64 bound the runs of foreground; mask i owns runs `first_run[i]:first_run[i + 1]`.
    """

    height: int
    width: int
    starts: np.ndarray
    stops: np.ndarray
    first_run: np.ndarray

    def __len__(self) -> int:
        return len(self.first_run) - 1

    def areas_px(self) -> np.ndarray:
        """(N,) int64, foreground pixels of each mask."""
        total = np.concatenate([[0], np.cumsum(self.stops - self.starts)])
        return total[self.first_run[1:]] - total[self.first_run[:-1]]

    def mask(self, index: int) -> np.ndarray:
        """(height, width) bool: one mask at full size."""
        left, top, crop = self.crop(index)
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask[top : top + crop.shape[1], left : left + crop.shape[0]] = crop.T
        return mask

    def crop(self, index: int) -> tuple[int, int, np.ndarray]:
        """Left-most column and top row of a mask, and the mask from there on as (columns, rows) bool.

        The crop is transposed, as runs go down the columns, and as tall as the image where a run goes over to the next
        column. An empty mask gives (0, 0, an array without columns).
        """
        runs = slice(self.first_run[index], self.first_run[index + 1])
        starts, stops = self.starts[runs], self.stops[runs]
        if not len(starts):
            return 0, 0, np.zeros((0, self.height), dtype=bool)
        column, row = np.divmod(starts, self.height)
        bottoms = row + (stops - starts)
        left, right = int(column[0]), -(-int(stops[-1]) // self.height)
        top, bottom = int(row.min()), int(bottoms.max())
        if bottom > self.height:
            top, bottom = 0, self.height
        begins = (column - left) * (bottom - top) + row - top
        bounds = np.empty(2 * len(starts) + 2, dtype=np.int64)
        bounds[0], bounds[1:-1:2], bounds[2:-1:2] = 0, begins, begins + (stops - starts)
        bounds[-1] = (right - left) * (bottom - top)
        is_foreground = np.zeros(len(bounds) - 1, dtype=bool)
        is_foreground[1::2] = True
        return left, top, np.repeat(is_foreground, np.diff(bounds)).reshape(right - left, bottom - top)


def encode_masks(masks: np.ndarray) -> list[bytes]:
    """COCO compressed counts of (N, height, width) masks, any dtype, non-zero is foreground."""
    column_major = np.asfortranarray(np.moveaxis(masks != 0, 0, -1).astype(np.uint8))
    return [rle["counts"] for rle in coco_mask.encode(column_major)]


def encode_crop(left: int, top: int, crop: np.ndarray, *, height: int, width: int) -> bytes:
    """COCO compressed counts of what `MaskRuns.crop` gives, the same as of the mask at full size."""
    framed = np.zeros((crop.shape[0], crop.shape[1] + 2), dtype=np.int8)
    framed[:, 1:-1] = crop
    change = np.diff(framed, axis=1)
    (columns, first), (_, last) = np.nonzero(change == 1), np.nonzero(change == -1)
    bounds = np.stack([first, last], axis=1) + ((left + columns) * height + top)[:, None]
    goes_on = np.flatnonzero(bounds[1:, 0] == bounds[:-1, 1])  # over the edge from one column to the next
    edges = np.delete(bounds.ravel(), np.concatenate([2 * goes_on + 1, 2 * goes_on + 2]))
    lengths = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and edges[-1] == height * width:
        lengths = lengths[:-1]
    return _compress(lengths.tolist(), height, width)


def compress_counts(counts: Any, *, height: int, width: int) -> bytes:
    """COCO compressed counts of what stands under `counts` in a JSON: the text of compressed ones, or run lengths.

    Raises ValueError on what is no mask of this size. pycocotools must not see that: some of it ends the process.
    """
    if isinstance(counts, str):
        rle = counts.encode()
        parse_runs([rle], height=height, width=width)
        return rle
    if not isinstance(counts, list):
        raise ValueError(f"expected counts to be a list or a string, got {str(counts)[:80]}")
    if not all(type(length) is int and length >= 0 for length in counts) or sum(counts) != height * width:
        raise ValueError(f"expected run lengths of {height * width} px, got {str(counts)[:80]}")
    return _compress(counts, height, width)


def _compress(lengths: list[int], height: int, width: int) -> bytes:
    rle: bytes = coco_mask.frPyObjects({"size": [height, width], "counts": lengths}, height, width)["counts"]
    return rle


def parse_runs(rles: Sequence[bytes], *, height: int, width: int) -> MaskRuns:
    """The runs of N masks. Raises ValueError that names the first mask whose RLE is malformed or of another size."""
    nothing = np.zeros(0, dtype=np.int64)
    starts: list[np.ndarray] = [nothing]
    stops: list[np.ndarray] = [nothing]
    for index, rle in enumerate(rles):
        try:
            edges = np.cumsum(_run_lengths(rle))
        except ValueError as error:
            raise ValueError(f"mask {index}: {error}") from None
        if edges[-1] != height * width:
            raise ValueError(f"mask {index}: RLE of another size: expected {height * width} pixels, got {edges[-1]}")
        stop = edges[1::2]
        start = edges[0::2][: len(stop)]
        starts.append(start[start < stop])
        stops.append(stop[start < stop])
    first_run = np.cumsum([len(of_mask) for of_mask in starts])
    return MaskRuns(height, width, np.concatenate(starts), np.concatenate(stops), first_run)


def _run_lengths(rle: bytes) -> np.ndarray:
    """(R,) int64, the lengths of the runs of 0 and 1 in turn. Raises ValueError on a malformed RLE."""
    if not rle:
        raise ValueError("empty RLE")
    code = np.frombuffer(rle, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    is_last = (code & _CONTINUES) == 0
    first = np.flatnonzero(np.append(True, is_last[:-1]))
    characters = np.diff(first, append=len(code))
    if not is_last[-1] or code.min() < 0 or code.max() > 63 or characters.max() > _MAX_CHARACTERS:
        raise ValueError("malformed RLE")
    shift = _BITS * (np.arange(len(code)) - np.repeat(first, characters))
    lengths = np.add.reduceat((code & _PAYLOAD) << shift, first)
    # Two's complement of as many bits as the number has groups of five.
    lengths -= np.where(code[is_last] & _SIGN, np.int64(1) << (_BITS * characters), 0)
    # From the fourth on, a number is added to the length two before it.
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    if lengths.min() < 0:
        raise ValueError("malformed RLE")
    return lengths
