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
_LAST_CODE = 63
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
    try:
        return _parse(rles, height, width)
    except ValueError:
        for index, rle in enumerate(rles):
            try:
                _parse([rle], height, width)
            except ValueError as error:
                raise ValueError(f"mask {index}: {error}") from None
        raise


def _parse(rles: Sequence[bytes], height: int, width: int) -> MaskRuns:
    """All masks at once, because a call of numpy costs more than what it does to one mask."""
    if not rles:
        return MaskRuns(height, width, *(np.zeros(n, dtype=np.int64) for n in (0, 0, 1)))
    lengths, pairs = _pair_lengths(*_read_numbers(rles))
    if lengths.min() < 0:
        raise ValueError("malformed RLE")
    stops = _running_sums(lengths.sum(axis=1), pairs)
    sizes = stops[np.cumsum(pairs) - 1]
    if (sizes != height * width).any():
        raise ValueError(f"RLE of another size: expected {height * width} pixels, got {sizes[0]}")
    starts = stops - lengths[:, 1]
    is_run = starts < stops
    first_run = np.append(0, np.cumsum(is_run)[np.cumsum(pairs) - 1])
    return MaskRuns(height, width, starts[is_run], stops[is_run], first_run)


def _read_numbers(rles: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(R,) int64, the numbers in the masks' codes behind each other, and (N,) how many each mask has. Raises ValueError
    on an empty or malformed one."""
    if not all(rles):
        raise ValueError("empty RLE")
    code = np.frombuffer(b"".join(rles), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    is_last = (code & _CONTINUES) == 0
    last_of_mask = np.cumsum([len(rle) for rle in rles]) - 1
    first = np.flatnonzero(np.append(True, is_last[:-1]))
    characters = np.diff(first, append=len(code))
    if (
        not is_last[last_of_mask].all()
        or code.min() < 0
        or code.max() > _LAST_CODE
        or characters.max() > _MAX_CHARACTERS
    ):
        raise ValueError("malformed RLE")
    shift = _BITS * (np.arange(len(code)) - np.repeat(first, characters))
    numbers = np.add.reduceat((code & _PAYLOAD) << shift, first)
    # Two's complement of as many bits as the number has groups of five.
    numbers -= np.where(code[is_last] & _SIGN, np.int64(1) << (_BITS * characters), 0)
    return numbers, np.diff(np.cumsum(is_last)[last_of_mask], prepend=0)


def _pair_lengths(numbers: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) lengths of a run of 0 and of the run of 1 behind it, which is of 0 px where the mask ends before; (N,) the
    number of pairs of each mask."""
    pairs = (count + 1) // 2
    first = np.cumsum(pairs) - pairs
    is_number = np.ones((pairs.sum(), 2), dtype=bool)
    is_number[(first + pairs - 1)[count % 2 == 1], 1] = False
    lengths = np.zeros(is_number.shape, dtype=np.int64)
    lengths[is_number] = numbers
    # From the fourth on, a number is added to the length two before it.
    background = lengths[first, 0]
    lengths[first, 0] = 0
    lengths = _running_sums(lengths, pairs)
    lengths[first, 0] = background
    lengths[~is_number] = 0
    return lengths, pairs


def _running_sums(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sums down the rows, which begin again with each mask, of `count` (N,) rows."""
    sums = np.cumsum(values, axis=0)
    return sums - np.repeat((sums - values)[np.cumsum(count) - count], count, axis=0)
