"""Why each segment of an image counts as it does in PQ: whom it matched, or what is the matter with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from antvisionps.evaluation.error_kinds import KINDS, ErrorKind, find_kinds
from antvisionps.evaluation.panoptic_quality import match_overlaps
from antvisionps.evaluation.segment_overlaps import ListedSegments, SegmentOverlaps
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import Segment, map_ids
from antvisionps.predictions.instances import ImageInstances

MATCHED, IGNORED = "matched", "ignored"
OUTCOMES = (MATCHED, IGNORED, *(kind.value for kind in KINDS if kind is not ErrorKind.OUTLINE))
"""What may become of a segment. The outline is what every match loses, and no outcome of its own."""

_OF_ANOTHER_CATEGORY = (ErrorKind.CLASS, ErrorKind.BOTH)
_WITHOUT_PARTNER = (ErrorKind.BACKGROUND, ErrorKind.MISSED)


@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """One of OUTCOMES. `partner_id` is the segment on the other side that it is about, `iou` the IoU with it; 0 without
    one.

    ignored: a crowd, or an unmatched prediction that PQ forgives since most of it is on void or crowd.
    """

    outcome: str
    partner_id: int | None
    iou: float


@dataclass(frozen=True, eq=False)
class ImageOutcomes:
    """The outcome of each true and each predicted segment in the order they were given; and confused_px (C + 1, C + 1)
    int64, the pixels of each true (row) and predicted (column) class index, C is void."""

    gt: tuple[SegmentOutcome, ...]
    predicted: tuple[SegmentOutcome, ...]
    confused_px: np.ndarray


def explain_segments(
    *,
    gt_ids: np.ndarray,
    gt: Sequence[Segment],
    predicted_ids: np.ndarray,
    predicted: Sequence[Segment],
    categories: CategorySet,
) -> ImageOutcomes:
    """The outcomes of one image, which repeat the counts of `count_matches` and `count_errors`.

    gt_ids and predicted_ids (H, W) integers, 0 = void; every other id is listed among the segments.

    IoUs leave predicted pixels on void out of the union, as there. Crowds are nobody's partner. Of equal overlaps the
    segment of the least id is the partner.
    """
    overlaps = SegmentOverlaps.of(
        gt_runs=find_runs(gt_ids, gt),
        gt=[gt],
        predicted_runs=find_runs(predicted_ids, predicted),
        predicted=[predicted],
    )
    rows, columns = overlaps.gt, overlaps.predicted
    matching = match_overlaps(overlaps)
    of_missed, of_wrong = find_kinds(overlaps, matching)
    ious = np.zeros((len(rows), len(columns)))
    ious[overlaps.row, overlaps.column] = np.where(rows.is_crowd[overlaps.row], 0, overlaps.ious)
    same_category = rows.segments["category"][:, None] == columns.segments["category"]

    gt_id, predicted_id = (listed.segments["segment_id"].tolist() for listed in (rows, columns))
    of_gt, of_predicted = {}, {}
    for row, column, iou in zip(matching.gt.tolist(), matching.predicted.tolist(), matching.ious.tolist(), strict=True):
        of_gt[gt_id[row]] = SegmentOutcome(MATCHED, predicted_id[column], iou)
        of_predicted[predicted_id[column]] = SegmentOutcome(MATCHED, gt_id[row], iou)
    missed, wrong = matching.missed.tolist(), matching.wrong.tolist()
    faults = _faults(ious[missed], same_category[missed], of_missed, predicted_id)
    of_gt |= dict(zip((gt_id[row] for row in missed), faults, strict=True))
    faults = _faults(ious.T[wrong], same_category.T[wrong], of_wrong, gt_id)
    of_predicted |= dict(zip((predicted_id[column] for column in wrong), faults, strict=True))
    ignored = SegmentOutcome(IGNORED, None, 0.0)
    return ImageOutcomes(
        gt=tuple(of_gt.get(segment.segment_id, ignored) for segment in gt),
        predicted=tuple(of_predicted.get(segment.segment_id, ignored) for segment in predicted),
        confused_px=_confused_px(overlaps, categories),
    )


def _faults(
    ious: np.ndarray, same_category: np.ndarray, kinds: np.ndarray, other_ids: Sequence[int]
) -> Iterator[SegmentOutcome]:
    """Of N unmatched segments with these kinds, from their IoU (N, M) with all others and which of them are of the
    same category."""
    for iou, same, place in zip(ious, same_category, kinds.tolist(), strict=True):
        kind = KINDS[place]
        if kind in _WITHOUT_PARTNER:
            yield SegmentOutcome(kind.value, None, 0.0)
            continue
        of_eligible = np.where(same ^ (kind in _OF_ANOTHER_CATEGORY), iou, 0.0)
        best = int(of_eligible.argmax())
        yield SegmentOutcome(kind.value, other_ids[best], float(of_eligible[best]))


def _confused_px(overlaps: SegmentOverlaps, categories: CategorySet) -> np.ndarray:
    void = len(categories)

    def class_indices(listed: ListedSegments) -> np.ndarray:
        return np.array([void, *map(categories.class_index, listed.segments["category"][1:].tolist())])

    confused = np.zeros((void + 1, void + 1), dtype=np.int64)
    pairs = class_indices(overlaps.gt)[overlaps.row], class_indices(overlaps.predicted)[overlaps.column]
    np.add.at(confused, pairs, overlaps.shared_px)
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
    met = (MATCHED, ErrorKind.CLASS)
    for segment, of_gt in zip(gt, outcomes.gt, strict=True):
        if of_gt.outcome != IGNORED:
            column = class_of[of_gt.partner_id] if of_gt.outcome in met and of_gt.partner_id else nothing
            confused[categories.class_index(segment.category_id), column] += 1
    for segment, of_predicted in zip(predicted, outcomes.predicted, strict=True):
        if of_predicted.outcome not in (*met, IGNORED):
            confused[nothing, class_of[segment.segment_id]] += 1
    return confused


def best_gt_segments(
    instances: ImageInstances, *, gt_ids: np.ndarray, gt: Sequence[Segment]
) -> list[tuple[int | None, float]]:
    """Of each instance the position in `gt` of the segment of its category with the largest IoU, and that IoU.

    Whole masks, as the end found them, before any fusion; IoUs as in PQ. (None, 0) without such a segment.
    """
    position_of_id = {segment.segment_id: position for position, segment in enumerate(gt, start=1)}
    positions = map_ids(gt_ids, position_of_id, np.int32, otherwise=0)
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
