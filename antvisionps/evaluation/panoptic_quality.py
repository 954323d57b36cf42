"""Panoptic Quality (Kirillov et al. 2019, section 4), with the exact rules of panopticapi's `evaluation.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antvisionps.evaluation.segment_overlaps import SegmentOverlaps, sum_at
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


@dataclass(frozen=True, eq=False)
class SegmentMatches:
    """The segments of some images that count: the true ones that are matched, with the IoU, the missed, the wrong.

    `present` are all segments, of both maps; `matched_by` are the predicted segments of the matches. Each is an array
    of segment_overlaps.SEGMENT.
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
    """The counts of one image, of the categories that occur in it, by the rules of `match_overlaps`."""
    matches = match_segments(gt_runs=gt_runs, gt=[gt], predicted_runs=predicted_runs, predicted=[predicted])
    return matches.counts()[0]


def match_segments(
    *,
    gt_runs: SegmentRuns,
    gt: Sequence[Sequence[Segment]],
    predicted_runs: SegmentRuns,
    predicted: Sequence[Sequence[Segment]],
) -> SegmentMatches:
    """Which true and which predicted segments match, and which do not, in some images of the same sizes in both."""
    overlaps = SegmentOverlaps.of(gt_runs=gt_runs, gt=gt, predicted_runs=predicted_runs, predicted=predicted)
    return match_overlaps(overlaps).describe(overlaps)


class Matching(NamedTuple):
    """Places in the lists of overlaps: gt (M,) and predicted (M,) of each match, with its IoU; missed true segments,
    wrong predicted ones."""

    gt: np.ndarray
    predicted: np.ndarray
    ious: np.ndarray
    missed: np.ndarray
    wrong: np.ndarray

    def describe(self, overlaps: SegmentOverlaps) -> SegmentMatches:
        gt, predicted = overlaps.gt, overlaps.predicted
        wrong = predicted.segments[self.wrong]
        wrong["area_px"] = overlaps.predicted_px[self.wrong]
        return SegmentMatches(
            images=len(gt.first) - 1,
            present=np.concatenate([gt.segments[~gt.is_void], predicted.segments[~predicted.is_void]]),
            matched=gt.segments[self.gt],
            matched_by=predicted.segments[self.predicted],
            ious=self.ious,
            missed=gt.segments[self.missed],
            wrong=wrong,
        )


def match_overlaps(overlaps: SegmentOverlaps, *, max_ious: np.ndarray | None = None) -> Matching:
    """A true and a predicted segment match if they are of one category, the true one is no crowd and their IoU is above
    0.5, where predicted pixels on void do not count. A crowd is never missed; an unmatched prediction that lies by more
    than half on void and its category's crowd (the last one listed) is not counted.

    max_ious (N,): of each overlap what its IoU is lowered to, as boundary PQ does.
    """
    gt, predicted, row, column = overlaps.gt, overlaps.predicted, overlaps.row, overlaps.column
    same = overlaps.same_category()
    iou = overlaps.ious if max_ious is None else np.minimum(overlaps.ious, max_ious)
    is_match = same & (iou > MATCH_IOU) & ~gt.is_crowd[row]
    on_own_crowd = same & gt.is_last_crowd[row]
    ignored_px = overlaps.on_void_px + sum_at(column[on_own_crowd], overlaps.shared_px[on_own_crowd], len(predicted))

    is_missed = ~gt.is_crowd & ~gt.is_void
    is_missed[row[is_match]] = False
    is_wrong = (ignored_px <= MAX_IGNORED_FRAC * overlaps.predicted_px) & ~predicted.is_void
    is_wrong[column[is_match]] = False
    return Matching(row[is_match], column[is_match], iou[is_match], np.flatnonzero(is_missed), np.flatnonzero(is_wrong))


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
