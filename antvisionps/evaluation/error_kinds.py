"""What PQ is lost to, by kinds of errors that add up to all that is lost.

Of a category PQ = Σ IoU / w with w = TP + FP/2 + FN/2 (Kirillov et al. 2019, section 4.1), so what it lacks to 1 is

    1 − PQ = (Σ over matches of (1 − IoU) + FP/2 + FN/2) / w

and every term is one segment's: a match loses 1 − IoU, a wrong or a missed one ½, each over w. A kind's loss is the
sum over its segments, and a group's the mean over its categories, as its PQ is. TIDE (Bolya et al. 2020, section 3.2),
whose kinds these are, has what AP would gain if one kind alone were mended, which does not add up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from antvisionps.evaluation.panoptic_quality import MATCH_IOU, Matching
from antvisionps.evaluation.segment_overlaps import SegmentOverlaps

NEAR_IOU = 0.1
"""From here on two segments have to do with each other (TIDE's background threshold)."""


class ErrorKind(StrEnum):
    """Of a missed or a wrong segment the first that applies, in this order. It lies in another with more than half of
    its area, where that on void does not count. Partners are segments of the other map, no crowds.

    outline     matched, but the IoU is below 1
    class       a partner of another category has an IoU above 0.5
    merged      a missed one lies in a prediction of its category in which others do too; a wrong one holds several
    split       a wrong one lies in a missed one of its category in which others do too; a missed one holds several
    duplicate   a wrong one lies in a matched one of its category
    location    a partner of its category has an IoU of 0.1 or more
    both        a partner of another category has an IoU of 0.1 or more
    background  a wrong one without a partner
    missed      a missed one without a partner
    """

    OUTLINE = "outline"
    CLASS = "class"
    MERGED = "merged"
    SPLIT = "split"
    DUPLICATE = "duplicate"
    LOCATION = "location"
    BOTH = "both"
    BACKGROUND = "background"
    MISSED = "missed"


KINDS = tuple(ErrorKind)


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """By category, category_ids (K,) ascending, and kind: segments (K, 9) int64, and lost (K, 9) float64, what they
    keep from the sum of IoUs; weight (K,) float64 is w."""

    category_ids: np.ndarray
    segments: np.ndarray
    lost: np.ndarray
    weight: np.ndarray

    @classmethod
    def total(cls, parts: Sequence[ErrorCounts]) -> ErrorCounts:
        category_ids = np.unique(np.concatenate([part.category_ids for part in parts]))
        segments = np.zeros((len(category_ids), len(KINDS)), dtype=np.int64)
        lost, weight = np.zeros(segments.shape), np.zeros(len(category_ids))
        for part in parts:
            row = np.searchsorted(category_ids, part.category_ids)
            segments[row] += part.segments
            lost[row] += part.lost
            weight[row] += part.weight
        return cls(category_ids, segments, lost, weight)

    def of_categories(self, category_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """(9,) segments, and (9,) the PQ that each kind loses, a fraction of 1: the mean over those of the categories
        that have a PQ; NaN where none has."""
        is_counted = np.isin(self.category_ids, list(category_ids)) & (self.weight > 0)
        if not is_counted.any():
            return np.zeros(len(KINDS), dtype=np.int64), np.full(len(KINDS), np.nan)
        pq_lost = self.lost[is_counted] / self.weight[is_counted, None]
        return self.segments[is_counted].sum(axis=0), pq_lost.mean(axis=0)


def count_errors(overlaps: SegmentOverlaps, matching: Matching) -> ErrorCounts:
    """The errors of some images, of the categories that occur in them."""
    of_missed, of_wrong = find_kinds(overlaps, matching)
    gt, predicted = (of.segments["category"] for of in (overlaps.gt, overlaps.predicted))
    categories = np.concatenate([gt[matching.gt], gt[matching.missed], predicted[matching.wrong]])
    unmatched = len(of_missed) + len(of_wrong)
    kinds = np.concatenate([np.full(len(matching.ious), KINDS.index(ErrorKind.OUTLINE)), of_missed, of_wrong])
    lost = np.concatenate([1 - matching.ious, np.full(unmatched, 0.5)])
    weights = np.concatenate([np.ones(len(matching.ious)), np.full(unmatched, 0.5)])

    category_ids, row = np.unique(categories, return_inverse=True)
    shape = len(category_ids), len(KINDS)
    cell = row * len(KINDS) + kinds
    return ErrorCounts(
        category_ids,
        np.bincount(cell, lost > 0, minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape),
        np.bincount(cell, lost, minlength=shape[0] * shape[1]).reshape(shape),
        np.bincount(row, weights, minlength=shape[0]),
    )


def find_kinds(overlaps: SegmentOverlaps, matching: Matching) -> tuple[np.ndarray, np.ndarray]:
    """Of each missed true and each wrong predicted segment the place of its kind in KINDS."""
    row, column, ious = overlaps.row, overlaps.column, overlaps.ious
    gt_px = overlaps.gt.segments["area_px"]
    on_labels_px = overlaps.predicted_px - overlaps.on_void_px
    is_pair = ~overlaps.gt.is_crowd[row] & (ious > 0)
    same, other = is_pair & overlaps.same_category(), is_pair & ~overlaps.same_category()
    gt_inside, predicted_inside = (same & (2 * overlaps.shared_px > px) for px in (gt_px[row], on_labels_px[column]))
    is_merging = np.bincount(column[gt_inside], minlength=len(overlaps.predicted)) > 1
    is_missed = np.zeros(len(overlaps.gt), dtype=bool)
    is_missed[matching.missed] = True
    is_split = (np.bincount(row[predicted_inside], minlength=len(overlaps.gt)) > 1) & is_missed
    in_merging = _marked(row[gt_inside & is_merging[column]], len(overlaps.gt))
    in_split = _marked(column[predicted_inside & is_split[row]], len(overlaps.predicted))
    in_matched = _marked(column[predicted_inside & ~is_missed[row]], len(overlaps.predicted))

    def kinds(
        place: np.ndarray, size: int, chosen: np.ndarray, *marks: tuple[ErrorKind, np.ndarray], alone: ErrorKind
    ) -> np.ndarray:
        nearest, nearest_other = (_largest(place[pairs], ious[pairs], size)[chosen] for pairs in (same, other))
        rules = [
            (ErrorKind.CLASS, nearest_other > MATCH_IOU),
            *((kind, marked[chosen]) for kind, marked in marks),
            (ErrorKind.LOCATION, nearest >= NEAR_IOU),
            (ErrorKind.BOTH, nearest_other >= NEAR_IOU),
        ]
        applies, places = [applies for _, applies in rules], [KINDS.index(kind) for kind, _ in rules]
        return np.select(applies, places, KINDS.index(alone))

    merged, split, duplicate = ErrorKind.MERGED, ErrorKind.SPLIT, ErrorKind.DUPLICATE
    of_missed = kinds(
        row, len(overlaps.gt), matching.missed, (merged, in_merging), (split, is_split), alone=ErrorKind.MISSED
    )
    marks = ((merged, is_merging), (split, in_split), (duplicate, in_matched))
    of_wrong = kinds(column, len(overlaps.predicted), matching.wrong, *marks, alone=ErrorKind.BACKGROUND)
    return of_missed, of_wrong


def _marked(places: np.ndarray, size: int) -> np.ndarray:
    marked = np.zeros(size, dtype=bool)
    marked[places] = True
    return marked


def _largest(places: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """(size,) of the values at each place the largest; 0 without one."""
    largest = np.zeros(size)
    np.maximum.at(largest, places, values)
    return largest
