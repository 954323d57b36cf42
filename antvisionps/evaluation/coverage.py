"""PQ by coverage: what is gained when the most doubtful segments of a map are left to a person.

Segments are given up from the least confident on (El-Yaniv and Wiener 2010 call it selective prediction). One that is
given up counts on neither side: a match leaves both maps, a wrong one vanishes. A missed true segment stays missed, as
nobody is shown where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antvisionps.evaluation.lrp import SegmentConfidence
from antvisionps.evaluation.panoptic_quality import MatchCounts, SegmentMatches, class_quality, group_quality
from antvisionps.evaluation.summary import groups, in_percent
from antvisionps.panoptic.categories import CategorySet

COVERAGE_COLUMNS = ("group", "system", "coverage", "segments", "min_confidence", "PQ_kept", "PQ_mended")

STEPS = 20
"""Parts of equal size in which segments are given up."""


class _Counted(NamedTuple):
    """Segments that count: the places of their categories, and their confidences, NaN where there is none."""

    place: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True, eq=False)
class Coverage:
    """What is left of a system's matches when the least confident segments are given up.

    `order` are all confidences, ascending. A segment without a confidence is never given up.
    """

    category_ids: np.ndarray
    order: np.ndarray
    matched: _Counted
    ious: np.ndarray
    wrong: _Counted
    missed_of_category: np.ndarray

    @classmethod
    def of(cls, matches: SegmentMatches, confidence: SegmentConfidence) -> Coverage:
        category_ids = np.unique(matches.present["category"])
        matched, wrong = (
            _Counted(np.searchsorted(category_ids, of["category"]), confidence.of_segments(of))
            for of in (matches.matched_by, matches.wrong)
        )
        missed = np.searchsorted(category_ids, matches.missed["category"])
        return cls(
            category_ids,
            np.sort(confidence.scores),
            matched,
            matches.ious,
            wrong,
            np.bincount(missed, minlength=len(category_ids)),
        )

    def min_confidence(self, step: int) -> float:
        """The least confidence that is kept when `step` of STEPS parts are given up; equal ones go together. Infinite
        when all go."""
        given_up = len(self.order) * step // STEPS
        return float(self.order[given_up]) if given_up < len(self.order) else float("inf")

    def counts(self, min_confidence: float) -> tuple[MatchCounts, MatchCounts]:
        """Two counts: of the segments with at least that confidence; and after a person redraws each match that is
        given up, and removes each wrong one. Every missed true segment counts in both."""
        is_kept = ~(self.matched.confidence < min_confidence)
        wrong = self._sum(self.wrong.place[~(self.wrong.confidence < min_confidence)])
        place = self.matched.place
        kept, all_of_them = (self._sum(place[is_kept]), self._sum(place))
        kept_ious, mended_ious = (
            self._sum(place, ious) for ious in (self.ious * is_kept, np.maximum(self.ious, ~is_kept))
        )
        return (
            MatchCounts(self.category_ids, kept, wrong, self.missed_of_category, kept_ious),
            MatchCounts(self.category_ids, all_of_them, wrong, self.missed_of_category, mended_ious),
        )

    def _sum(self, places: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(places, weights=weights, minlength=len(self.category_ids))


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
                yield [group, name, coverage, segments, threshold, *in_percent(of.pq for of in qualities)]


def _curve(of: Coverage) -> Iterator[tuple[float, int, object, MatchCounts, MatchCounts]]:
    for step in range(STEPS + 1):
        threshold = of.min_confidence(step)
        segments = int(np.count_nonzero(of.order >= threshold))
        shown = None if np.isinf(threshold) else threshold
        yield 100 * segments / len(of.order), segments, shown, *of.counts(threshold)
