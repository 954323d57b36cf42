"""Confidence intervals by resampling images (Efron's percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from antvisionps.evaluation.panoptic_quality import MatchCounts

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
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


def resampled_pq(images: Sequence[MatchCounts], draws: np.ndarray, *, category_ids: Collection[int]) -> np.ndarray:
    """(samples,) PQ, fractions of 1, of the given categories in each sample of `draw_images`.

    As without resampling, a category without a true or a predicted segment in the sample leaves the mean; a sample
    without any gives NaN.
    """
    weights = draws.astype(np.float64)  # floats make the products a call of BLAS
    iou_sum, weight = (weights @ table for table in _per_image(images, sorted(category_ids)))
    pq = np.divide(iou_sum, weight, out=np.zeros_like(weight), where=weight > 0)
    present = (weight > 0).sum(axis=1)
    return np.divide(pq.sum(axis=1), present, out=np.full(len(draws), np.nan), where=present > 0)


def _per_image(images: Sequence[MatchCounts], category_ids: Sequence[int]) -> Iterator[np.ndarray]:
    """iou_sum and tp + fp / 2 + fn / 2, what PQ divides it by, (images, categories) float64 each."""
    found, tp, fp, fn, iou_sum = (
        np.concatenate([getattr(image, name) for image in images])
        for name in ("category_ids", "tp", "fp", "fn", "iou_sum")
    )
    row = np.repeat(np.arange(len(images)), [len(image.category_ids) for image in images])
    is_wanted = np.isin(found, category_ids)
    place = row[is_wanted], np.searchsorted(category_ids, found[is_wanted])
    for values in (iou_sum, tp + 0.5 * fp + 0.5 * fn):
        table = np.zeros((len(images), len(category_ids)))
        table[place] = values[is_wanted]
        yield table
