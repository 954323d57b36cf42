"""Panoptic Quality (Kirillov et al. 2019, section 4), with the exact rules of panopticapi's `evaluation.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from antvisionps.coco_panoptic import Segment

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
    """Category ids and areas of the segments of one image that count, in arrays: of the matched (the true segment's
    area, and the IoU), of the missed, of the wrong. `present` are the categories of all its segments.
    """

    present: np.ndarray
    matched: np.ndarray
    matched_px: np.ndarray
    ious: np.ndarray
    missed: np.ndarray
    missed_px: np.ndarray
    wrong: np.ndarray
    wrong_px: np.ndarray

    def counts(self) -> MatchCounts:
        """Of the categories that occur in the image."""
        return _count_by_category(self.present, self.matched, self.ious, self.wrong, self.missed)

    def counts_of_size(self, size: str, category_ids: Collection[int]) -> MatchCounts:
        """Only segments of these categories and of a size of SIZES: of the true one where there is one, else of the
        predicted one."""
        low, high = SIZES[size]
        wanted = np.array(sorted(category_ids), dtype=np.int64)

        def is_counted(of_categories: np.ndarray, areas_px: np.ndarray) -> np.ndarray:
            return (areas_px >= low) & (areas_px < high) & np.isin(of_categories, wanted)

        matched = is_counted(self.matched, self.matched_px)
        wrong = self.wrong[is_counted(self.wrong, self.wrong_px)]
        missed = self.missed[is_counted(self.missed, self.missed_px)]
        present = np.concatenate([self.matched[matched], wrong, missed])
        return _count_by_category(present, self.matched[matched], self.ious[matched], wrong, missed)


def count_matches(
    *, true_ids: np.ndarray, true: Sequence[Segment], predicted_ids: np.ndarray, predicted: Sequence[Segment]
) -> MatchCounts:
    """The counts of one image, of the categories that occur in it; see `match_segments`."""
    return match_segments(true_ids=true_ids, true=true, predicted_ids=predicted_ids, predicted=predicted).counts()


def match_segments(
    *, true_ids: np.ndarray, true: Sequence[Segment], predicted_ids: np.ndarray, predicted: Sequence[Segment]
) -> SegmentMatches:
    """Which true and which predicted segments of an image match, and which do not.

    true_ids and predicted_ids (H, W) integers, 0 = void; every other id is listed among the segments and below 2^24. A
    true and a predicted segment match if they are of one category, the true one is no crowd and their IoU is above 0.5,
    where predicted pixels on void do not count. A crowd is never missed; an unmatched prediction that lies by more than
    half on void and its category's crowd (the last one listed) is not counted.
    """
    crowd_of_category = {segment.category_id: segment.segment_id for segment in true if segment.is_crowd}
    true = sorted(true, key=lambda segment: segment.segment_id)  # the order in which panopticapi adds up IoUs
    overlap = _overlap_matrix(true_ids, true, predicted_ids, predicted)
    predicted_area = overlap.sum(axis=0)[1:]
    on_void, overlap = overlap[0, 1:], overlap[1:, 1:]
    true_category = np.array([segment.category_id for segment in true], dtype=np.int64)
    predicted_category = np.array([segment.category_id for segment in predicted], dtype=np.int64)
    true_area = np.array([segment.area_px for segment in true], dtype=np.int64)
    is_crowd = np.array([segment.is_crowd for segment in true], dtype=bool)

    union = true_area[:, None] + predicted_area - overlap - on_void
    comparable = (true_category[:, None] == predicted_category) & ~is_crowd[:, None] & (overlap > 0)
    iou = np.divide(overlap, union, out=np.zeros(overlap.shape), where=comparable)
    of_true, of_predicted = np.nonzero(iou > MATCH_IOU)

    is_missed = ~is_crowd
    is_missed[of_true] = False
    ignored_px = on_void + _on_own_crowd(overlap, true, predicted, crowd_of_category)
    is_wrong = ignored_px <= MAX_IGNORED_FRAC * predicted_area
    is_wrong[of_predicted] = False
    return SegmentMatches(
        present=np.concatenate([true_category, predicted_category]),
        matched=true_category[of_true],
        matched_px=true_area[of_true],
        ious=iou[of_true, of_predicted],
        missed=true_category[is_missed],
        missed_px=true_area[is_missed],
        wrong=predicted_category[is_wrong],
        wrong_px=predicted_area[is_wrong],
    )


def _overlap_matrix(
    true_ids: np.ndarray, true: Sequence[Segment], predicted_ids: np.ndarray, predicted: Sequence[Segment]
) -> np.ndarray:
    """(1 + G, 1 + P) int64, pixels that each true and each predicted segment share; row and column 0 are void.

    Counted over runs of pixels that agree in both maps, of which there are twenty times fewer than pixels.
    """
    true_flat, predicted_flat = true_ids.ravel(), predicted_ids.ravel()
    begins_run = true_flat[1:] != true_flat[:-1]
    begins_run |= predicted_flat[1:] != predicted_flat[:-1]
    starts = np.append(0, np.flatnonzero(begins_run) + 1)
    lengths = np.diff(starts, append=true_flat.size)
    columns = 1 + len(predicted)
    pairs = _positions(true_flat[starts], true) * columns + _positions(predicted_flat[starts], predicted)
    counted = np.bincount(pairs, weights=lengths, minlength=(1 + len(true)) * columns)
    return counted.astype(np.int64).reshape(-1, columns)


def _positions(segment_ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """int64, 1 + the segment's position in the list, 0 where void."""
    listed = np.array([segment.segment_id for segment in segments], dtype=np.int64)
    order = np.argsort(listed)
    ascending = np.append(0, listed[order])
    position = np.append(0, order + 1)
    return position[np.searchsorted(ascending, segment_ids)]


def _on_own_crowd(
    overlap: np.ndarray, true: Sequence[Segment], predicted: Sequence[Segment], crowd_of_category: Mapping[int, int]
) -> np.ndarray:
    """(P,) pixels that each predicted segment shares with its category's crowd."""
    row_of = {segment.segment_id: row for row, segment in enumerate(true)}
    shared = np.zeros(len(predicted), dtype=np.int64)
    for column, segment in enumerate(predicted):
        if segment.category_id in crowd_of_category:
            shared[column] = overlap[row_of[crowd_of_category[segment.category_id]], column]
    return shared


def _count_by_category(
    present: np.ndarray, matched: np.ndarray, ious: np.ndarray, wrong: np.ndarray, missed: np.ndarray
) -> MatchCounts:
    category_ids = np.unique(present)

    def count(of_categories: np.ndarray) -> np.ndarray:
        return np.bincount(np.searchsorted(category_ids, of_categories), minlength=len(category_ids))

    iou_sum = np.bincount(np.searchsorted(category_ids, matched), weights=ious, minlength=len(category_ids))
    return MatchCounts(category_ids, count(matched), count(wrong), count(missed), iou_sum, matched, ious)


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
