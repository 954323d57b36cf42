"""Panoptic Quality (Kirillov et al. 2019, section 4), with the exact rules of panopticapi's `evaluation.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from antvisionps.panoptic.categories import VOID_SEGMENT_ID
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import Segment

MATCH_IOU = 0.5
"""Above it a predicted and a true segment match; no segment can match two."""

MAX_IGNORED_FRAC = 0.5
"""Above this part of its area on void and crowd, an unmatched prediction is no false positive."""


SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 2**31)}
"""Areas in pixels, from the first up to below the second, as COCO's AP has them."""


@dataclass(frozen=True, eq=False)
class MatchCounts:
    """What PQ is computed of, by category: category_ids (K,) ascending, tp, fp, fn (K,) int64, iou_sum (K,) float64.

    `matched` and `ious` are the category and the IoU of each match, where known: with them a sum over images is rounded
    as panopticapi's is, which adds up matches and not images.
    """

    category_ids: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou_sum: np.ndarray
    matched: np.ndarray | None = None
    ious: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """Fractions of 1. NaN if the group has no category with a true or predicted segment (n_categories = 0)."""

    pq: float
    sq: float
    rq: float
    n_categories: int


SEGMENT = np.dtype([("image", np.int64), ("segment_id", np.int64), ("category", np.int64), ("area_px", np.int64)])
"""A segment in an array of some: the position of its image, its own id, its category's, its area in pixels."""


@dataclass(frozen=True, eq=False)
class SegmentMatches:
    """The segments of some images that count: the true ones that are matched, with the IoU, the missed, the wrong.

    `present` are all segments, of both maps; `matched_by` are the predicted segments of the matches. Each is an array
    of SEGMENT.
    """

    images: int
    present: np.ndarray
    matched: np.ndarray
    matched_by: np.ndarray
    ious: np.ndarray
    missed: np.ndarray
    wrong: np.ndarray

    def counts(self) -> list[MatchCounts]:
        """Of each image, of the categories that occur in it."""
        stride = 1 + int(self.present["category"].max(initial=0))
        keys = np.unique(self.present["image"] * stride + self.present["category"])

        def row(segments: np.ndarray) -> np.ndarray:
            return np.searchsorted(keys, segments["image"] * stride + segments["category"])

        tp, fp, fn = (
            np.bincount(row(segments), minlength=len(keys)) for segments in (self.matched, self.wrong, self.missed)
        )
        iou_sum = np.bincount(row(self.matched), weights=self.ious, minlength=len(keys))
        columns = (keys % stride, tp, fp, fn, iou_sum)
        match_columns = (self.matched["category"], self.ious)
        images = np.arange(self.images + 1)
        bounds = np.searchsorted(keys, images * stride).tolist()
        match_bounds = np.searchsorted(self.matched["image"], images).tolist()
        return [
            MatchCounts(
                *(column[first:stop] for column in columns),
                *(column[first_match:stop_match] for column in match_columns),
            )
            for first, stop, first_match, stop_match in zip(
                bounds, bounds[1:], match_bounds, match_bounds[1:], strict=False
            )
        ]

    def of_size(self, size: str, category_ids: Collection[int]) -> SegmentMatches:
        """Only segments of these categories and of a size of SIZES: of the true one where there is one, else of the
        predicted one."""
        low, high = SIZES[size]
        wanted = np.array(sorted(category_ids), dtype=np.int64)

        def is_counted(segments: np.ndarray) -> np.ndarray:
            is_of_size = (segments["area_px"] >= low) & (segments["area_px"] < high)
            return is_of_size & np.isin(segments["category"], wanted)

        is_counted_match = is_counted(self.matched)
        matched, matched_by = self.matched[is_counted_match], self.matched_by[is_counted_match]
        missed, wrong = (segments[is_counted(segments)] for segments in (self.missed, self.wrong))
        present, ious = np.concatenate([matched, missed, wrong]), self.ious[is_counted_match]
        return SegmentMatches(self.images, present, matched, matched_by, ious, missed, wrong)

    @classmethod
    def join(cls, parts: Sequence[SegmentMatches]) -> SegmentMatches:
        """Each part's images after those of the parts before."""
        images_before = np.cumsum([0, *(part.images for part in parts)]).tolist()

        def join_segments(name: str) -> np.ndarray:
            segments = np.concatenate([getattr(part, name) for part in parts])
            segments["image"] += np.repeat(images_before[:-1], [len(getattr(part, name)) for part in parts])
            return segments

        return cls(
            images=images_before[-1],
            present=join_segments("present"),
            matched=join_segments("matched"),
            matched_by=join_segments("matched_by"),
            ious=np.concatenate([part.ious for part in parts]),
            missed=join_segments("missed"),
            wrong=join_segments("wrong"),
        )


def count_matches(
    *, gt_runs: SegmentRuns, gt: Sequence[Segment], predicted_runs: SegmentRuns, predicted: Sequence[Segment]
) -> MatchCounts:
    """The counts of one image, of the categories that occur in it, by the rules of `match_segments`."""
    matches = match_segments(gt_runs=gt_runs, gt=[gt], predicted_runs=predicted_runs, predicted=[predicted])
    return matches.counts()[0]


def match_segments(
    *,
    gt_runs: SegmentRuns,
    gt: Sequence[Sequence[Segment]],
    predicted_runs: SegmentRuns,
    predicted: Sequence[Sequence[Segment]],
) -> SegmentMatches:
    """Which true and which predicted segments match, and which do not, in some images of the same sizes in both.

    A true and a predicted segment match if they are of one category, the true one is no crowd and their IoU is above
    0.5, where predicted pixels on void do not count. A crowd is never missed; an unmatched prediction that lies by more
    than half on void and its category's crowd (the last one listed) is not counted.
    """
    rows, columns = _ListedSegments.of(gt), _ListedSegments.of(predicted)
    row, column, overlap = _overlaps(gt_runs, rows, predicted_runs, columns)
    predicted_area = _sum_at(column, overlap, len(columns))
    on_void = rows.is_void[row]
    ignored_px = _sum_at(column[on_void], overlap[on_void], len(columns))

    same = (rows.segments["category"][row] == columns.segments["category"][column]) & ~on_void
    row, column, overlap = row[same], column[same], overlap[same]
    union = rows.segments["area_px"][row] + predicted_area[column] - overlap - ignored_px[column]
    iou = overlap / union
    is_match = (iou > MATCH_IOU) & ~rows.is_crowd[row]
    on_own_crowd = rows.is_last_crowd[row]
    ignored_px += _sum_at(column[on_own_crowd], overlap[on_own_crowd], len(columns))

    is_missed = ~rows.is_crowd & ~rows.is_void
    is_missed[row[is_match]] = False
    is_wrong = (ignored_px <= MAX_IGNORED_FRAC * predicted_area) & ~columns.is_void
    is_wrong[column[is_match]] = False
    wrong = columns.segments[is_wrong]
    wrong["area_px"] = predicted_area[is_wrong]
    return SegmentMatches(
        images=len(gt),
        present=np.concatenate([rows.segments[~rows.is_void], columns.segments[~columns.is_void]]),
        matched=rows.segments[row[is_match]],
        matched_by=columns.segments[column[is_match]],
        ious=iou[is_match],
        missed=rows.segments[is_missed],
        wrong=wrong,
    )


def overlap_matrix(
    *, gt_runs: SegmentRuns, gt: Sequence[Segment], predicted_runs: SegmentRuns, predicted: Sequence[Segment]
) -> np.ndarray:
    """(1 + G, 1 + P) int64, pixels that each true and each predicted segment of an image share, in the order they are
    listed; row and column 0 are void."""
    rows, columns = _ListedSegments.of([gt]), _ListedSegments.of([predicted])
    row, column, overlap = _overlaps(gt_runs, rows, predicted_runs, columns)
    shared_px = np.zeros((len(rows), len(columns)), dtype=np.int64)
    shared_px[row, column] = overlap
    place_of_row, place_of_column = (
        np.searchsorted(of.segments["segment_id"], [VOID_SEGMENT_ID, *(segment.segment_id for segment in listed)])
        for of, listed in ((rows, gt), (columns, predicted))
    )
    return shared_px[place_of_row][:, place_of_column]


_VOID = Segment(VOID_SEGMENT_ID, -1, 0, (0, 0, 0, 0), is_crowd=False)


@dataclass(frozen=True, eq=False)
class _ListedSegments:
    """The segments of all images, each image's behind its void, in ascending id: the order in which panopticapi adds up
    IoUs. first[i] is image i's void, first[-1] the number of all. is_last_crowd marks the crowd listed last of its
    category in an image."""

    segments: np.ndarray
    is_void: np.ndarray
    is_crowd: np.ndarray
    is_last_crowd: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Sequence[Segment]]) -> _ListedSegments:
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


def _overlaps(
    gt: SegmentRuns, rows: _ListedSegments, predicted: SegmentRuns, columns: _ListedSegments
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
    # Where a true run ends, as many true ones have ended before as its index says; the rest were predicted ones.
    ended = np.arange(len(order))
    gt_run = np.where(order < len(gt), order, ended - (order - len(gt)))
    return gt_run, ended - gt_run, lengths


def _sum_at(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(index, weights=values, minlength=size).astype(np.int64)


def total_counts(images: Sequence[MatchCounts]) -> MatchCounts:
    """The counts of all images together, of every category that occurs in one of them."""
    if not images:
        none = np.zeros(0, dtype=np.int64)
        return MatchCounts(none, none, none, none, np.zeros(0))
    category_ids, position = np.unique(np.concatenate([image.category_ids for image in images]), return_inverse=True)

    def total(name: str) -> np.ndarray:
        return np.bincount(position, weights=np.concatenate([getattr(image, name) for image in images]))

    tp, fp, fn = (total(name).astype(np.int64) for name in ("tp", "fp", "fn"))
    matched = [image.matched for image in images if image.matched is not None]
    ious = [image.ious for image in images if image.ious is not None]
    if len(matched) < len(images):
        return MatchCounts(category_ids, tp, fp, fn, total("iou_sum"))
    position = np.searchsorted(category_ids, np.concatenate(matched))
    iou_sum = np.bincount(position, weights=np.concatenate(ious), minlength=len(category_ids))
    return MatchCounts(category_ids, tp, fp, fn, iou_sum)


def class_quality(counts: MatchCounts) -> dict[int, Quality]:
    """category_id → its quality, of the categories that have a true or a predicted segment that counts."""
    return {
        int(category_id): _quality(tp, fp, fn, iou_sum)
        for category_id, tp, fp, fn, iou_sum in zip(
            counts.category_ids, counts.tp, counts.fp, counts.fn, counts.iou_sum, strict=True
        )
        if tp + fp + fn > 0
    }


def _quality(tp: int, fp: int, fn: int, iou_sum: float) -> Quality:
    weight = tp + 0.5 * fp + 0.5 * fn
    return Quality(float(iou_sum / weight), float(iou_sum / tp) if tp else 0.0, float(tp / weight), 1)


def group_quality(of_class: Mapping[int, Quality], category_ids: Collection[int]) -> Quality:
    """Mean over those of the categories that have a quality."""
    group = [of_class[category_id] for category_id in category_ids if category_id in of_class]
    if not group:
        return Quality(float("nan"), float("nan"), float("nan"), 0)
    pq, sq, rq = (sum(getattr(quality, name) for quality in group) / len(group) for name in ("pq", "sq", "rq"))
    return Quality(pq, sq, rq, len(group))
