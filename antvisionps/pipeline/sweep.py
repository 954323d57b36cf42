"""What `antvisionps sweep` does: PQ of many values of fusion's params."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from antvisionps.core.errors import ParamsError
from antvisionps.evaluation.panoptic_quality import total_counts
from antvisionps.evaluation.summary import summarize
from antvisionps.fusion.system import FusionSettings
from antvisionps.parallel.images import Workers
from antvisionps.pipeline.try_settings import count_by_each
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.pq_table import SUFFIX_OF_GROUP
from antvisionps.report.sweep_report import Pq

Changes = Mapping[str, object]
"""Dotted key of params.yaml → value."""


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


def sweep(settings: Sequence[FusionSettings], caches: SplitCaches, *, workers: Workers) -> list[Pq]:
    """PQ on the split with each of the settings, of the same ends: that of stages fuse and score."""
    dataset = caches.dataset
    counts = count_by_each(settings, caches, dataset.images, workers=workers, description=f"sweep {caches.split}")
    summaries = [summarize(total_counts(of_settings), dataset.categories) for of_settings in counts]
    return [{f"PQ{SUFFIX_OF_GROUP[group]}": of["PQ"] for group, of in summary.items()} for summary in summaries]


def best(pq: Sequence[Pq]) -> int:
    """Position of the highest PQ, the first of equal ones; one with nothing to measure is lowest."""
    return max(range(len(pq)), key=lambda position: (pq[position]["PQ"] or 0.0, -position))


def _pairs(items: Sequence) -> Iterator[tuple]:
    return itertools.combinations(items, 2)
