"""Why each segment of an image counts as it does in PQ: whom it matched, or what is the matter with it.

Panoptic quality only knows matched, missed and wrong. Here the missed and the wrong are told apart by the overlap that
comes nearest to a match, as TIDE does for detections (Bolya et al. 2020, section 3): a segment that lies on one of
another category, one whose mask is poor, and one that has no counterpart at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from antvisionps.evaluation.panoptic_quality import MATCH_IOU, SegmentMatches, match_segments
from antvisionps.evaluation.segment_overlaps import overlap_matrix
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import Segment
from antvisionps.predictions.instances import ImageInstances

MIN_POOR_IOU = 0.1
"""From here up to MATCH_IOU a mask is poor; below, it has nothing to do with the other (TIDE's background limit)."""


class Outcome(StrEnum):
    """What became of a true or a predicted segment; the first of wrong_class, poor_mask, alone that applies."""

    MATCHED = "matched"
    WRONG_CLASS = "wrong_class"
    POOR_MASK = "poor_mask"
    ALONE = "alone"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """`partner_id` is the segment on the other side that the outcome is about, `iou` the IoU with it; 0 without one.

    ignored: a crowd, or an unmatched prediction that PQ forgives since most of it is on void or crowd.
    """

    outcome: Outcome
    partner_id: int | None
    iou: float


@dataclass(frozen=True, eq=False)
class ImageOutcomes:
    """The outcome of each true and each predicted segment in the order they were given; what PQ counts of them; and
    confused_px (C + 1, C + 1) int64, the pixels of each true (row) and predicted (column) class index, C is void."""

    gt: tuple[SegmentOutcome, ...]
    predicted: tuple[SegmentOutcome, ...]
    matches: SegmentMatches
    confused_px: np.ndarray


def explain_segments(
    *,
    gt_ids: np.ndarray,
    gt: Sequence[Segment],
    predicted_ids: np.ndarray,
    predicted: Sequence[Segment],
    categories: CategorySet,
) -> ImageOutcomes:
    """The outcomes of one image, which repeat the counts of `count_matches`.

    gt_ids and predicted_ids (H, W) integers, 0 = void; every other id is listed among the segments.

    IoUs leave predicted pixels on void out of the union, as there. Crowds are nobody's partner. Of equal overlaps the
    first listed segment is the partner.
    """
    gt_runs, predicted_runs = find_runs(gt_ids, gt), find_runs(predicted_ids, predicted)
    runs = {"gt_runs": gt_runs, "predicted_runs": predicted_runs}
    matches = match_segments(**runs, gt=[gt], predicted=[predicted])
    overlap = overlap_matrix(**runs, gt=gt, predicted=predicted)
    iou = _ious(overlap, gt)
    gt_category, predicted_category = (
        np.array([segment.category_id for segment in segments], dtype=np.int64) for segments in (gt, predicted)
    )
    same_category = gt_category[:, None] == predicted_category

    of_gt, of_predicted = {}, {}
    columns = (matches.matched["segment_id"].tolist(), matches.matched_by["segment_id"].tolist(), matches.ious.tolist())
    for gt_id, predicted_id, matched_iou in zip(*columns, strict=True):
        of_gt[gt_id] = SegmentOutcome(Outcome.MATCHED, predicted_id, matched_iou)
        of_predicted[predicted_id] = SegmentOutcome(Outcome.MATCHED, gt_id, matched_iou)
    missed, wrong = set(matches.missed["segment_id"].tolist()), set(matches.wrong["segment_id"].tolist())
    for row, segment in enumerate(gt):
        if segment.segment_id in missed:
            of_gt[segment.segment_id] = _nearest(iou[row], same_category[row], predicted)
    for column, segment in enumerate(predicted):
        if segment.segment_id in wrong:
            of_predicted[segment.segment_id] = _nearest(iou[:, column], same_category[:, column], gt)
    ignored = SegmentOutcome(Outcome.IGNORED, None, 0.0)
    return ImageOutcomes(
        gt=tuple(of_gt.get(segment.segment_id, ignored) for segment in gt),
        predicted=tuple(of_predicted.get(segment.segment_id, ignored) for segment in predicted),
        matches=matches,
        confused_px=_confused_px(overlap, gt_category, predicted_category, categories),
    )


def _ious(overlap: np.ndarray, gt: Sequence[Segment]) -> np.ndarray:
    """(G, P) float64 of all pairs of whatever categories; 0 of a crowd."""
    gt_area = np.array([0 if segment.is_crowd else segment.area_px for segment in gt], dtype=np.int64)
    on_void, shared = overlap[0, 1:], overlap[1:, 1:]
    union = gt_area[:, None] + overlap.sum(axis=0)[1:] - shared - on_void
    return np.divide(shared, union, out=np.zeros(shared.shape), where=(shared > 0) & (gt_area[:, None] > 0))


def _nearest(iou: np.ndarray, same_category: np.ndarray, others: Sequence[Segment]) -> SegmentOutcome:
    """Of an unmatched segment, from its IoU (n,) with all others and which of them are of its category."""
    for outcome, eligible, floor in (
        (Outcome.WRONG_CLASS, ~same_category, np.nextafter(MATCH_IOU, 1)),
        (Outcome.POOR_MASK, same_category, MIN_POOR_IOU),
    ):
        of_eligible = np.where(eligible, iou, 0.0)
        if of_eligible.max(initial=0.0) >= floor:
            best = int(of_eligible.argmax())
            return SegmentOutcome(outcome, others[best].segment_id, float(of_eligible[best]))
    return SegmentOutcome(Outcome.ALONE, None, 0.0)


def _confused_px(
    overlap: np.ndarray, gt_category: np.ndarray, predicted_category: np.ndarray, categories: CategorySet
) -> np.ndarray:
    void = len(categories)
    rows, columns = (
        np.array([void, *map(categories.class_index, of_segments.tolist())])
        for of_segments in (gt_category, predicted_category)
    )
    confused = np.zeros((void + 1, void + 1), dtype=np.int64)
    np.add.at(confused, (rows[:, None], columns), overlap)
    return confused


def confused_segments(
    gt: Sequence[Segment], predicted: Sequence[Segment], outcomes: ImageOutcomes, categories: CategorySet
) -> np.ndarray:
    """(C + 1, C + 1) int64, the segments of each true (row) and predicted (column) class index, as PQ counts them.

    C as a column is what a true segment without a match above MATCH_IOU, of whatever category, has; as a row what a
    wrong segment without one has. What is ignored is not counted.
    """
    nothing = len(categories)
    class_of = {segment.segment_id: categories.class_index(segment.category_id) for segment in predicted}
    confused = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    met = (Outcome.MATCHED, Outcome.WRONG_CLASS)
    for segment, of_gt in zip(gt, outcomes.gt, strict=True):
        if of_gt.outcome is not Outcome.IGNORED:
            column = class_of[of_gt.partner_id] if of_gt.outcome in met and of_gt.partner_id else nothing
            confused[categories.class_index(segment.category_id), column] += 1
    for segment, of_predicted in zip(predicted, outcomes.predicted, strict=True):
        if of_predicted.outcome in (Outcome.POOR_MASK, Outcome.ALONE):
            confused[nothing, class_of[segment.segment_id]] += 1
    return confused


def best_gt_segments(
    instances: ImageInstances, *, gt_ids: np.ndarray, gt: Sequence[Segment]
) -> list[tuple[int | None, float]]:
    """Of each instance the position in `true` of the segment of its category that it overlaps most, and the IoU.

    Whole masks, as the end found them, before any fusion; IoUs as in PQ. (None, 0) without such a segment.
    """
    position_of_id = np.zeros(int(gt_ids.max(initial=0)) + 1, dtype=np.uint16)
    for position, segment in enumerate(gt, start=1):
        position_of_id[segment.segment_id] = position
    positions = position_of_id[gt_ids]
    area = np.array([segment.area_px for segment in gt], dtype=np.int64)
    crowd = np.array([segment.is_crowd for segment in gt], dtype=bool)
    category = np.array([segment.category_id for segment in gt], dtype=np.int64)
    best: list[tuple[int | None, float]] = []
    for index, category_id in enumerate(instances.category_ids.tolist()):
        left, top, mask = instances.runs.crop(index)
        below = positions[top : top + mask.shape[1], left : left + mask.shape[0]].T[mask]
        on_void, *shared = np.bincount(below, minlength=1 + len(gt)).tolist()
        overlap = np.where((category == category_id) & ~crowd, np.array(shared, dtype=np.int64), 0)
        if not overlap.any():
            best.append((None, 0.0))
            continue
        iou = overlap / (area + len(below) - overlap - on_void)
        best.append((int(iou.argmax()), float(iou.max())))
    return best
