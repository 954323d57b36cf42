"""Confidence intervals by resampling images (Efron's percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    columns = sorted(category_ids)
    tp, fp, fn, iou_sum = (
        draws.astype(np.float64) @ _per_image(images, name, columns) for name in ("tp", "fp", "fn", "iou_sum")
    )
    weight = tp + 0.5 * fp + 0.5 * fn
    pq = np.divide(iou_sum, weight, out=np.zeros_like(weight), where=weight > 0)
    present = (weight > 0).sum(axis=1)
    return np.divide(pq.sum(axis=1), present, out=np.full(len(draws), np.nan), where=present > 0)


def _per_image(images: Sequence[MatchCounts], name: str, category_ids: Sequence[int]) -> np.ndarray:
    """(images, categories) float64, which makes the products with draws a call of BLAS."""
    table = np.zeros((len(images), len(category_ids)))
    column_of = {category_id: column for column, category_id in enumerate(category_ids)}
    for row, image in zip(table, images, strict=True):
        for category_id, value in zip(image.category_ids.tolist(), getattr(image, name).tolist(), strict=True):
            if category_id in column_of:
                row[column_of[category_id]] = value
    return table
