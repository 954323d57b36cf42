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
    from antvisionps.panoptic.rle_kernels import read_runs

    codes = np.frombuffer(b"".join(rles) or b"\0", dtype=np.uint8)
    starts, stops = np.empty((2, len(codes)), dtype=np.int64)
    first_run, sizes = np.zeros(len(rles) + 1, dtype=np.int64), np.zeros(len(rles), dtype=np.int64)
    read_runs(codes, np.cumsum([0, *map(len, rles)]), starts, stops, first_run, sizes)
    for index in np.flatnonzero(sizes != height * width).tolist():
        other = f"RLE of another size: expected {height * width} pixels, got {sizes[index]}"
        raise ValueError(f"mask {index}: {other if sizes[index] >= 0 else 'malformed RLE'}")
    return MaskRuns(height, width, starts[: first_run[-1]], stops[: first_run[-1]], first_run)
