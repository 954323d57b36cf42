"""Reliability of probabilities: how often what is said with a confidence is right, and the expected calibration error
(Guo et al. 2017, sections 2 and 3), Σ over bins of their share times |right − confidence|."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from antvisionps.evaluation.average_precision import ImageMatches
from antvisionps.evaluation.summary import in_percent

BINS = 15
"""Of equal width, as in Guo et al. 2017; a confidence on an edge counts below it."""


RELIABILITY_COLUMNS = ("name", "of", "low", "high", "count", "confidence", "right")
CALIBRATION_COLUMNS = ("name", "of", "count", "ECE")


@dataclass(frozen=True, eq=False)
class Reliability:
    """Of each bin, (15,) float64: how many, how many of them right, and the sum of their confidences."""

    count: np.ndarray
    right: np.ndarray
    confidence_sum: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, is_right: np.ndarray, times: np.ndarray | None = None) -> Reliability:
        """confidence (N,) from 0 to 1, is_right (N,) bool; times (N,), how often each counts, once without."""
        times = np.ones(len(confidence)) if times is None else times
        inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
        bins = np.searchsorted(inner_edges, confidence)
        weights = (times, is_right * times, confidence * times)
        return cls(*(np.bincount(bins, of_each, minlength=BINS).astype(np.float64) for of_each in weights))

    @classmethod
    def total(cls, parts: Sequence[Reliability]) -> Reliability:
        names = ("count", "right", "confidence_sum")
        return cls(*(np.sum([getattr(part, name) for part in parts], axis=0) for name in names))

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """(15,) each, the mean confidence and the part that is right; NaN of an empty bin."""
        return tuple(
            np.divide(values, self.count, out=np.full(BINS, np.nan), where=self.count > 0)
            for values in (self.confidence_sum, self.right)
        )

    def expected_error(self) -> float:
        """A fraction of 1; NaN of nothing."""
        if not (all_of_them := self.count.sum()):
            return float("nan")
        return float(np.abs(self.right - self.confidence_sum).sum() / all_of_them)


def instance_reliability(matches: ImageMatches) -> Reliability:
    """Of the scores of an end's instances in an image: one is right if it is matched at IoU 0.5 as AP50 matches; one on
    a crowd does not count."""
    counts = ~matches.ignored[0]
    return Reliability.of(matches.scores[counts].astype(np.float64), matches.matched[0][counts])


def reliability_rows(of_each: Mapping[tuple[str, str], Reliability]) -> Iterator[list[object]]:
    """(name, what of it) → a row for each bin that is not empty; fractions of 1."""
    for (name, of), reliability in of_each.items():
        confidence, right = (means.tolist() for means in reliability.means())
        for index in np.flatnonzero(reliability.count).tolist():
            edges = (f"{index / BINS:.4f}", f"{(index + 1) / BINS:.4f}")
            yield [name, of, *edges, int(reliability.count[index]), confidence[index], right[index]]


def calibration_rows(of_each: Mapping[tuple[str, str], Reliability]) -> Iterator[list[object]]:
    """The expected calibration error of each in percent, empty of nothing."""
    for (name, of), reliability in of_each.items():
        yield [name, of, int(reliability.count.sum()), *in_percent([reliability.expected_error()])]
