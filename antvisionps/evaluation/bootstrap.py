"""Confidence intervals and standard errors by resampling images (Efron's percentile bootstrap, and the jackknife)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antvisionps.evaluation.panoptic_quality import MatchCounts

LEVEL = 0.95


class Interval(NamedTuple):
    """The middle 95 % of the resampled values; NaN where no sample has a value."""

    low: float
    high: float


def draw_images(images: int, *, samples: int, seed: int) -> np.ndarray:
    """(samples, images) int64, how often each image was drawn into each sample of as many images, with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=samples)


def percentile_interval(values: np.ndarray) -> Interval:
    """Of (samples,) values, NaN where a sample has none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True, eq=False)
class ResampledCounts:
    """The counts of each sample of `draw_images`: category_ids (K,) ascending, and (samples, K) float64 each the sum of
    the IoUs and tp + fp / 2 + fn / 2, what PQ divides it by."""

    category_ids: np.ndarray
    iou_sum: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, images: Sequence[MatchCounts], draws: np.ndarray | None) -> ResampledCounts:
        """`draws` None: a sample for each image that is left out."""
        found, tp, fp, fn, iou_sum = (
            np.concatenate([getattr(image, name) for image in images])
            for name in ("category_ids", "tp", "fp", "fn", "iou_sum")
        )
        category_ids, column = np.unique(found, return_inverse=True)
        row = np.repeat(np.arange(len(images)), [len(image.category_ids) for image in images])
        times = None if draws is None else draws.astype(np.float64)  # floats make the products a call of BLAS

        def total(values: np.ndarray) -> np.ndarray:
            table = np.zeros((len(images), len(category_ids)))
            table[row, column] = values
            return table.sum(axis=0) - table if times is None else np.asarray(times @ table)

        return cls(category_ids, total(iou_sum), total(tp + 0.5 * fp + 0.5 * fn))

    def pq(self, category_ids: Collection[int]) -> np.ndarray:
        """(samples,) PQ, fractions of 1, of the given categories.

        As without resampling, a category without a true or a predicted segment in the sample leaves the mean; a sample
        without any gives NaN.
        """
        is_wanted = np.isin(self.category_ids, list(category_ids))
        iou_sum, weight = self.iou_sum[:, is_wanted], self.weight[:, is_wanted]
        pq = np.divide(iou_sum, weight, out=np.zeros_like(weight), where=weight > 0)
        present = (weight > 0).sum(axis=1)
        return np.divide(pq.sum(axis=1), present, out=np.full(len(weight), np.nan), where=present > 0)


def jackknife_error(one: Sequence[MatchCounts], other: Sequence[MatchCounts], category_ids: Collection[int]) -> float:
    """The standard error of the difference in PQ of two systems on the same N images, as a fraction of 1: that of
    leaving out each image in turn, √((N - 1) / N · Σ (d_i - mean)²). 0 for less than two images."""
    images = len(one)
    if images < 2:
        return 0.0
    of_one, of_other = (ResampledCounts.of(system, None).pq(category_ids) for system in (one, other))
    difference = np.nan_to_num(of_one) - np.nan_to_num(of_other)
    return float(np.sqrt((images - 1) / images * np.square(difference - difference.mean()).sum()))
