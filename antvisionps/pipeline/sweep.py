"""What `antvisionps sweep` does: PQ of many values of fusion's params."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from antvisionps.core.errors import ParamsError
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.fusion.system import FusionSettings
from antvisionps.panoptic.categories import CategorySet
from antvisionps.parallel.images import Workers
from antvisionps.pipeline.try_settings import count_by_each
from antvisionps.predictions.split_caches import SplitCaches

Changes = Mapping[str, object]
"""Dotted key of params.yaml → value."""


@dataclass(frozen=True)
class PanopticQuality:
    """PQ in percent; None where there is nothing to measure."""

    all: float | None
    things: float | None
    stuff: float | None

    @classmethod
    def of(cls, counts: MatchCounts, categories: CategorySet) -> PanopticQuality:
        qualities = class_quality(counts)
        groups = (categories.categories, categories.things, categories.stuff)
        values = [group_quality(qualities, [c.category_id for c in group]).pq for group in groups]
        return cls(*(None if math.isnan(value) else 100 * value for value in values))


def grid(values_of_key: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Every combination of one value of each key; the last key changes fastest."""
    return [dict(zip(values_of_key, values, strict=True)) for values in itertools.product(*values_of_key.values())]


def refuse_idle(points: Sequence[Changes], settings: Sequence[FusionSettings]) -> None:
    """Raises ParamsError if two of the points fuse alike, so that a key is without effect."""
    for (one, other), (of_one, of_other) in zip(_pairs(points), _pairs(settings), strict=True):
        if of_one == of_other:
            changed = ", ".join(f"{key}={one[key]} and {other[key]}" for key in one if one[key] != other[key])
            raise ParamsError(
                f"{changed} fuse alike: the value has no effect on this system, or fuse.preset or fuse.calibrated "
                "takes its place; sweep with fuse.preset=null fuse.calibrated=false"
            )


def sweep(settings: Sequence[FusionSettings], caches: SplitCaches, *, workers: Workers) -> list[PanopticQuality]:
    """PQ on the split with each of the settings, of the same ends: that of stages fuse and score."""
    dataset = caches.dataset
    counts = count_by_each(settings, caches, dataset.images, workers=workers, description=f"sweep {caches.split}")
    return [PanopticQuality.of(total_counts(of_settings), dataset.categories) for of_settings in counts]


def best(qualities: Sequence[PanopticQuality]) -> int:
    """Position of the highest PQ, the first of equal ones; one with nothing to measure is lowest."""
    return max(range(len(qualities)), key=lambda position: (qualities[position].all or 0.0, -position))


def _pairs(items: Sequence) -> Iterator[tuple]:
    return itertools.combinations(items, 2)
