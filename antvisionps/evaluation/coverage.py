"""PQ by coverage: what is gained when the most doubtful segments of a map are left to a person.

Segments are given up from the least confident on (El-Yaniv and Wiener 2010 call it selective prediction). One that is
given up counts on neither side: a match leaves both maps, a wrong one vanishes. A missed true segment stays missed, as
nobody is shown where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from antvisionps.evaluation.lrp import SegmentConfidence
from antvisionps.evaluation.panoptic_quality import MatchCounts, SegmentMatches, class_quality, group_quality
from antvisionps.evaluation.summary import groups
from antvisionps.panoptic.categories import CategorySet

COVERAGE_COLUMNS = ("group", "system", "coverage", "segments", "min_confidence", "PQ_kept", "PQ_mended")

STEPS = 20
"""Parts of equal size in which segments are given up."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """What is left of a system's matches when the least confident segments are given up.

    `order` are all confidences, ascending. A segment without a confidence is never given up.
    """

    matches: SegmentMatches
    order: np.ndarray
    of_matches: np.ndarray
    of_wrong: np.ndarray

    @classmethod
    def of(cls, matches: SegmentMatches, confidence: SegmentConfidence) -> Coverage:
        of_matches, of_wrong = (confidence.of_segments(of) for of in (matches.matched_by, matches.wrong))
        return cls(matches, np.sort(confidence.scores), of_matches, of_wrong)

    def min_confidence(self, step: int) -> float:
        """From which on segments stay when `step` of STEPS parts are given up, of equal ones all or none; infinite
        when all are."""
        given_up = len(self.order) * step // STEPS
        return float(self.order[given_up]) if given_up < len(self.order) else float("inf")

    def kept(self, min_confidence: float) -> MatchCounts:
        """The counts of the segments from a confidence on; every missed true segment counts."""
        is_kept = ~(self.of_matches < min_confidence)
        return self._count(self.matches.matched[is_kept]["category"], self.matches.ious[is_kept], min_confidence)

    def mended(self, min_confidence: float) -> MatchCounts:
        """The same where a person draws each match that is given up as it should be, and removes each wrong one."""
        ious = np.where(self.of_matches < min_confidence, 1.0, self.matches.ious)
        return self._count(self.matches.matched["category"], ious, min_confidence)

    def _count(self, matched: np.ndarray, ious: np.ndarray, min_confidence: float) -> MatchCounts:
        wrong = self.matches.wrong["category"][~(self.of_wrong < min_confidence)]
        missed = self.matches.missed["category"]
        category_ids = np.unique(np.concatenate([matched, wrong, missed]))

        def count(found: np.ndarray) -> np.ndarray:
            return np.bincount(np.searchsorted(category_ids, found), minlength=len(category_ids))

        iou_sum = np.bincount(np.searchsorted(category_ids, matched), weights=ious, minlength=len(category_ids))
        return MatchCounts(category_ids, count(matched), count(wrong), count(missed), iou_sum)


def coverage_rows(
    matches: Mapping[str, SegmentMatches], confidence: Mapping[str, SegmentConfidence], categories: CategorySet
) -> Iterator[list[object]]:
    """COVERAGE_COLUMNS of each group, system and step, from all segments to none; `coverage` is the part that stays of
    those with a confidence, in percent, `segments` how many these are. No rows of a system without confidences."""
    of_system = {name: Coverage.of(found, confidence[name]) for name, found in matches.items()}
    curves = {name: [*_curve(coverage)] for name, coverage in of_system.items() if len(coverage.order)}
    for group, category_ids in groups(categories).items():
        for name, curve in curves.items():
            for coverage, segments, threshold, *counts in curve:
                qualities = [group_quality(class_quality(of), category_ids) for of in counts]
                quality = ["" if np.isnan(of.pq) else 100 * of.pq for of in qualities]
                yield [group, name, coverage, segments, threshold, *quality]


def _curve(of: Coverage) -> Iterator[tuple[float, int, object, MatchCounts, MatchCounts]]:
    for step in range(STEPS + 1):
        threshold = of.min_confidence(step)
        segments = int(np.count_nonzero(of.order >= threshold))
        shown = "" if np.isinf(threshold) else threshold
        yield 100 * segments / len(of.order), segments, shown, of.kept(threshold), of.mended(threshold)
