"""COCO's compressed run lengths as arrays, many masks at a time.

pycocotools decodes one mask at a time to a full image; fusion only needs the few columns that a mask covers, so runs
are parsed here in one vectorised pass and painted on crops. The format: a mask is read column by column; the lengths of
its runs of 0 and 1 alternate (the first is of 0); from the fourth on, a length is stored as its difference to the one
two before; each number is written as little-endian groups of 5 bits and a continuation bit, in characters from '0' on.
"""

from __future__ import annotations

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
    if not len(rles):
        nothing = np.zeros(0, dtype=np.int64)
        return MaskRuns(height, width, nothing, nothing, np.zeros(1, dtype=np.int64))
    numbers, first_number = _parse_numbers(rles)
    lengths = _undo_differences(numbers, first_number)
    _check_lengths(lengths, first_number, height * width)

    mask_of = np.repeat(np.arange(len(rles)), np.diff(first_number))
    is_foreground = (_position_in_group(first_number) % 2 == 1) & (lengths > 0)
    stops = (np.cumsum(lengths) - mask_of * (height * width))[is_foreground]
    runs_of_mask = np.bincount(mask_of[is_foreground], minlength=len(rles))
    return MaskRuns(
        height, width, stops - lengths[is_foreground], stops, np.concatenate([[0], np.cumsum(runs_of_mask)])
    )


def _parse_numbers(rles: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of all strings, and (N + 1,) where each string's begin."""
    last_character = np.cumsum([len(rle) for rle in rles]) - 1
    for index, rle in enumerate(rles):
        if not rle:
            raise ValueError(f"mask {index}: empty RLE")
    code = np.frombuffer(b"".join(rles), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    is_last = (code & _CONTINUES) == 0
    malformed = (code < 0) | (code > 63)
    malformed[last_character] |= ~is_last[last_character]
    last_of_number = np.flatnonzero(is_last)
    first_of_number = np.concatenate([[0], last_of_number[:-1] + 1])
    characters = last_of_number - first_of_number + 1
    if malformed.any() or characters.max() > _MAX_CHARACTERS:
        place = int(np.argmax(malformed)) if malformed.any() else int(first_of_number[np.argmax(characters)])
        raise ValueError(f"mask {np.searchsorted(last_character, place)}: malformed RLE")
    shift = _BITS * (np.arange(len(code)) - np.repeat(first_of_number, characters))
    numbers = np.add.reduceat((code & _PAYLOAD) << shift, first_of_number)
    # Two's complement of as many bits as the number has groups of five.
    numbers -= np.where(code[last_of_number] & _SIGN, np.int64(1) << (_BITS * characters), 0)
    numbers_up_to = np.cumsum(is_last)[last_character]
    return numbers, np.concatenate([[0], numbers_up_to])


def _position_in_group(first: np.ndarray) -> np.ndarray:
    return np.arange(first[-1]) - np.repeat(first[:-1], np.diff(first))


def _undo_differences(numbers: np.ndarray, first_number: np.ndarray) -> np.ndarray:
    """Lengths of the runs: from the fourth on, a number is added to the length two before it."""
    position = _position_in_group(first_number)
    lengths = np.empty_like(numbers)
    for parity in (0, 1):
        chain = position % 2 == parity
        begins = position[chain] <= 2  # 0, 1 and 2 are stored as they are
        total = np.cumsum(numbers[chain])
        before = (total - numbers[chain])[begins]
        lengths[chain] = total - before[np.cumsum(begins) - 1]
    return lengths


def _check_lengths(lengths: np.ndarray, first_number: np.ndarray, pixels: int) -> None:
    totals = np.add.reduceat(lengths, first_number[:-1])
    negative = np.minimum.reduceat(lengths, first_number[:-1]) < 0
    wrong = np.flatnonzero((totals != pixels) | negative)
    if len(wrong):
        index = int(wrong[0])
        if negative[index]:
            raise ValueError(f"mask {index}: malformed RLE")
        raise ValueError(f"mask {index}: RLE of another size: expected {pixels} pixels, got {totals[index]}")
