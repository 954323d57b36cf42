"""Localisation recall precision error (Oksuz et al. 2018; 2021, sections 3 to 5), of segments or of instances.

With TP, FP and FN at an IoU above τ = 0.5

    LRP = (Σ over matches of (1 − IoU) / (1 − τ) + FP + FN) / (TP + FP + FN)

0 is perfect, 1 is all wrong. Its components are the mean 1 − IoU of matches, FP / (TP + FP), and FN / (TP + FN).
Optimal LRP is the least over score thresholds, below which segments are taken out: a match becomes a miss, a wrong one
vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antvisionps.evaluation.average_precision import CategoryMatches
from antvisionps.evaluation.panoptic_quality import MATCH_IOU, MatchCounts, SegmentMatches, total_counts

NAN = float("nan")


class Lrp(NamedTuple):
    """Fractions of 1; NaN where a quotient is 0 / 0, as the authors' panopticapi has it."""

    lrp: float
    localisation: float
    fp: float
    fn: float


class OptimalLrp(NamedTuple):
    """`min_score` is the threshold, from which on segments stay; NaN where none makes a match stay."""

    error: Lrp
    min_score: float


NO_OPTIMUM = OptimalLrp(Lrp(NAN, NAN, NAN, NAN), NAN)


def lrp_error(tp: float, fp: float, fn: float, iou_sum: float) -> Lrp:
    localisation = tp - iou_sum
    return Lrp(
        _quotient(localisation / (1 - MATCH_IOU) + fp + fn, tp + fp + fn),
        _quotient(localisation, tp),
        _quotient(fp, tp + fp),
        _quotient(fn, tp + fn),
    )


def class_lrp(counts: MatchCounts) -> dict[int, Lrp]:
    """category_id → the error of a panoptic map as it is."""
    columns = (counts.category_ids, counts.tp, counts.fp, counts.fn, counts.iou_sum)
    return {key: lrp_error(*values) for key, *values in zip(*(column.tolist() for column in columns), strict=True)}


def mean_lrp(of_classes: Iterable[Lrp]) -> Lrp:
    """Each the mean over the classes in which it is known."""
    columns = np.array([*of_classes]).reshape(-1, len(Lrp._fields)).T
    return Lrp(*(float(known.mean()) if len(known := column[~np.isnan(column)]) else NAN for column in columns))


def optimal_lrp(*, scores: np.ndarray, ious: np.ndarray, wrong_scores: np.ndarray, missed: int) -> OptimalLrp:
    """Of one category: scores (M,) and ious (M,) of the matches, wrong_scores (W,). Every score is tried as a
    threshold; of equal errors the highest stays. All NaN without a true segment."""
    n_gt = len(scores) + missed
    if not n_gt:
        return NO_OPTIMUM
    thresholds = np.unique(np.concatenate([scores, wrong_scores]))[::-1]
    order = np.argsort(scores, kind="stable")
    kept = len(scores) - np.searchsorted(scores[order], thresholds)
    lost = np.append(0.0, np.cumsum(1 - ious[order][::-1]))[kept]
    wrong = len(wrong_scores) - np.searchsorted(np.sort(wrong_scores), thresholds)
    errors = (lost / (1 - MATCH_IOU) + wrong + n_gt - kept) / (wrong + n_gt)
    best = int(errors.argmin()) if len(errors) else 0
    if not len(errors) or not kept[best]:
        return OptimalLrp(lrp_error(0, 0, n_gt, 0.0), NAN)
    tp, fp = int(kept[best]), int(wrong[best])
    return OptimalLrp(lrp_error(tp, fp, n_gt - tp, tp - float(lost[best])), float(thresholds[best]))


def detection_lrp(matches: CategoryMatches) -> tuple[Lrp, OptimalLrp]:
    """Of one category's instances, as AP50 matches them: of all, and the optimum. One on a crowd does not count."""
    is_match = matches.matched[0] & ~matches.ignored[0]
    scores, ious = matches.scores[is_match].astype(np.float64), matches.ious[is_match]
    wrong_scores = matches.scores[~matches.matched[0]].astype(np.float64)
    missed = int(matches.n_gt.sum()) - len(scores)
    as_it_is = lrp_error(len(scores), len(wrong_scores), missed, float(ious.sum()))
    return as_it_is, optimal_lrp(scores=scores, ious=ious, wrong_scores=wrong_scores, missed=missed)


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True, eq=False)
class SegmentConfidence:
    """The scores of predicted segments: keys (S,) ascending and scores (S,); see `of`."""

    keys: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, segment_ids: np.ndarray, scores: np.ndarray) -> SegmentConfidence:
        """(S,) each; images are positions in the split."""
        keys = _key(images, segment_ids)
        order = np.argsort(keys)
        return cls(keys[order], scores[order])

    def of_segments(self, segments: np.ndarray) -> np.ndarray:
        """(N,) of an array of segment_overlaps.SEGMENT; NaN of one without a score."""
        keys = _key(segments["image"], segments["segment_id"])
        places = np.searchsorted(self.keys, keys)
        is_known = np.append(self.keys, -1)[places] == keys
        return np.where(is_known, np.append(self.scores, NAN)[places], NAN)


def _key(images: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    return images.astype(np.int64) * 2**32 + segment_ids


def class_optimal_lrp(matches: SegmentMatches, confidence: SegmentConfidence) -> dict[int, OptimalLrp]:
    """category_id → the optimum of a panoptic map, of the categories that have true segments and whose predicted ones
    all have scores."""
    matched_scores, wrong_scores = map(confidence.of_segments, (matches.matched_by, matches.wrong))
    found = {}
    for category_id in np.unique(np.concatenate([matches.matched["category"], matches.missed["category"]])).tolist():
        is_match, is_wrong = (of["category"] == category_id for of in (matches.matched, matches.wrong))
        scores, wrong = matched_scores[is_match], wrong_scores[is_wrong]
        missed = int(np.count_nonzero(matches.missed["category"] == category_id))
        if not np.isnan(np.concatenate([scores, wrong])).any():
            found[category_id] = optimal_lrp(
                scores=scores, ious=matches.ious[is_match], wrong_scores=wrong, missed=missed
            )
    return found


class SystemLrp(NamedTuple):
    """category_id → the error of a system's maps as they are, and the optimum, which without scores is the same."""

    as_it_is: dict[int, Lrp]
    optima: dict[int, OptimalLrp]

    @classmethod
    def of(cls, matches: SegmentMatches, confidence: SegmentConfidence) -> SystemLrp:
        errors = class_lrp(total_counts(matches.counts()))
        present = {key: error for key, error in errors.items() if not math.isnan(error.lrp)}
        unchanged = {key: OptimalLrp(error, NAN) for key, error in present.items()}
        return cls(present, unchanged | class_optimal_lrp(matches, confidence))
