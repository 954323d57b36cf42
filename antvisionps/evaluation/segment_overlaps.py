"""How many pixels true and predicted segments share: what every count of segments is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np

from antvisionps.panoptic.categories import VOID_SEGMENT_ID
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import Segment

SEGMENT = np.dtype([("image", np.int64), ("segment_id", np.int64), ("category", np.int64), ("area_px", np.int64)])
"""A segment in an array of some: the position of its image, its own id, its category's, its area in pixels."""

_VOID = Segment(VOID_SEGMENT_ID, -1, 0, (0, 0, 0, 0), is_crowd=False)


@dataclass(frozen=True, eq=False)
class ListedSegments:
    """The segments of all images, each image's behind its void, in ascending id: the order in which panopticapi adds up
    IoUs. first[i] is image i's void, first[-1] the number of all. is_last_crowd marks the crowd listed last of its
    category in an image."""

    segments: np.ndarray
    is_void: np.ndarray
    is_crowd: np.ndarray
    is_last_crowd: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Sequence[Segment]]) -> ListedSegments:
        rows = [row for listed in images for row in (_VOID, *sorted(listed, key=attrgetter("segment_id")))]
        counts = np.array([1 + len(listed) for listed in images])
        first = np.append(0, np.cumsum(counts))
        segments = np.empty(len(rows), dtype=SEGMENT)
        segments["image"] = np.repeat(np.arange(len(images)), counts)
        for name, values in (("segment_id", "segment_id"), ("category", "category_id"), ("area_px", "area_px")):
            segments[name] = [getattr(row, values) for row in rows]
        is_crowd = np.array([row.is_crowd for row in rows])
        is_void = np.zeros(len(rows), dtype=bool)
        is_void[first[:-1]] = True
        is_last_crowd = np.zeros(len(rows), dtype=bool)
        if is_crowd.any():
            for begin, listed in zip(first.tolist(), images, strict=False):
                last = {segment.category_id: segment.segment_id for segment in listed if segment.is_crowd}
                ids = sorted(segment.segment_id for segment in listed)
                is_last_crowd[[begin + 1 + ids.index(segment_id) for segment_id in last.values()]] = True
        return cls(segments, is_void, is_crowd, is_last_crowd, first)

    def __len__(self) -> int:
        return int(self.first[-1])


@dataclass(frozen=True, eq=False)
class SegmentOverlaps:
    """Every two of gt and predicted that share pixels in some images, void included: their places row and column in the
    lists and shared_px, int64 (N,) each, by row and then by column; of each predicted one its predicted_px, and its
    on_void_px, (P,)."""

    gt: ListedSegments
    predicted: ListedSegments
    row: np.ndarray
    column: np.ndarray
    shared_px: np.ndarray
    predicted_px: np.ndarray
    on_void_px: np.ndarray

    @classmethod
    def of(
        cls,
        *,
        gt_runs: SegmentRuns,
        gt: Sequence[Sequence[Segment]],
        predicted_runs: SegmentRuns,
        predicted: Sequence[Sequence[Segment]],
    ) -> SegmentOverlaps:
        """Of images of the same sizes in both."""
        rows, columns = ListedSegments.of(gt), ListedSegments.of(predicted)
        row, column, shared_px = _overlaps(gt_runs, rows, predicted_runs, columns)
        on_void = rows.is_void[row]
        return cls(
            rows,
            columns,
            row,
            column,
            shared_px,
            predicted_px=sum_at(column, shared_px, len(columns)),
            on_void_px=sum_at(column[on_void], shared_px[on_void], len(columns)),
        )

    def same_category(self) -> np.ndarray:
        """(N,) bool, whether both are of one category; never of void."""
        categories = self.gt.segments["category"][self.row], self.predicted.segments["category"][self.column]
        return (categories[0] == categories[1]) & ~self.gt.is_void[self.row]

    @cached_property
    def ious(self) -> np.ndarray:
        """(N,) IoU of the two, of whatever categories, where predicted pixels on void do not count; 0 with void."""
        area_px = self.gt.segments["area_px"][self.row]
        union = area_px + (self.predicted_px - self.on_void_px)[self.column] - self.shared_px
        is_segment = ~self.gt.is_void[self.row] & ~self.predicted.is_void[self.column]
        return np.divide(self.shared_px, union, out=np.zeros(len(union)), where=is_segment)


def _overlaps(
    gt: SegmentRuns, rows: ListedSegments, predicted: SegmentRuns, columns: ListedSegments
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and shared pixels of each two that share some, int64 (N,) each, by row and then by column."""
    gt_run, predicted_run, lengths = _common_runs(gt.lengths, predicted.lengths)
    widths = np.diff(columns.first)
    pairs_before = np.append(0, np.cumsum(np.diff(rows.first) * widths))
    # Pairs are numbered image by image, in each as the elements of a (true, predicted) matrix.
    runs_of_image = np.diff(gt.first_run)
    pair = np.repeat(pairs_before[:-1], runs_of_image) + np.repeat(widths, runs_of_image) * gt.segment_indices
    shared_px = np.bincount(pair[gt_run] + predicted.segment_indices[predicted_run], weights=lengths)
    pair = np.flatnonzero(shared_px)
    image = np.searchsorted(pairs_before, pair, side="right") - 1
    row, column = np.divmod(pair - pairs_before[image], widths[image])
    return rows.first[image] + row, columns.first[image] + column, shared_px[pair].astype(np.int64)


def _common_runs(gt: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of lengths of runs of the same pixels, the runs on which both are constant: their index in each, and length.

    Where a run of either ends together, a run of length 0 comes in between.
    """
    ends = np.concatenate([np.cumsum(gt, dtype=np.int64), np.cumsum(predicted, dtype=np.int64)])
    order = np.argsort(ends, kind="stable")[:-1]  # the last two end together, where the pixels do
    lengths = np.diff(ends[order], prepend=0)
    # A run's index is how many runs of its map have ended before.
    gt_run = np.append(0, np.cumsum(order[:-1] < len(gt)))
    return gt_run, np.arange(len(order)) - gt_run, lengths


def sum_at(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """(size,) int64, of values (N,) the sum at each index."""
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)
