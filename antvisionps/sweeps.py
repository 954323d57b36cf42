"""Fusion tried with many settings on the cached predictions, in one pass over the images, without a stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from antvisionps.categories import CategorySet
from antvisionps.coco_panoptic import PanopticImage
from antvisionps.datasets.splits import SplitName, dataset_fingerprint, open_split
from antvisionps.errors import ParamsError
from antvisionps.evaluation.panoptic_quality import (
    MatchCounts,
    class_quality,
    count_matches,
    group_quality,
    total_counts,
)
from antvisionps.fusion.heuristic import to_segments
from antvisionps.fusion.system import FusionSettings, fuse_by_each
from antvisionps.parallel import Workers, map_images
from antvisionps.predictions.ends import SplitCaches
from antvisionps.segment_runs import find_runs

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


def sweep(
    settings: Sequence[FusionSettings], *, prepared: Path, predictions: Path, split: SplitName, workers: Workers
) -> list[PanopticQuality]:
    """PQ on the split with each of the settings, of the same ends: that of stages fuse and score."""
    dataset = open_split(prepared, split)
    open_work = partial(_open_trying, settings, prepared, predictions, split)
    of_image = list(map_images(open_work, dataset.images, workers=workers, description=f"sweep {split}"))
    return [
        PanopticQuality.of(total_counts(of_settings), dataset.categories) for of_settings in zip(*of_image, strict=True)
    ]


def best(qualities: Sequence[PanopticQuality]) -> int:
    """Position of the highest PQ, the first of equal ones; one with nothing to measure is lowest."""
    return max(range(len(qualities)), key=lambda position: (qualities[position].all or 0.0, -position))


def _pairs(items: Sequence) -> Iterator[tuple]:
    return itertools.combinations(items, 2)


def _open_trying(
    settings: Sequence[FusionSettings], prepared: Path, predictions: Path, split: SplitName
) -> Callable[[PanopticImage], list[MatchCounts]]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    dataset = open_split(prepared, split)
    caches = SplitCaches(predictions, split, dataset_fingerprint(prepared), dataset)
    ends = list(settings[0].weight_of_end)
    instances = caches.open_instances(ends, mask_probs=any(tried.needs_mask_probs for tried in settings))
    semantics = caches.open_semantics(ends)

    def try_all(image: PanopticImage) -> list[MatchCounts]:
        true_runs = find_runs(dataset.load_segment_ids(image), image.segments)
        found = {end: reader.read(image.image_id) for end, reader in instances.items()}
        planes = {end: reader.read(image.image_id) for end, reader in semantics.items()}
        counted = []
        for fused in fuse_by_each(found, planes, categories=dataset.categories, settings=settings):
            segments = to_segments(fused.segments)
            counted.append(
                count_matches(true_runs=true_runs, true=image.segments, predicted_runs=fused.runs, predicted=segments)
            )
        return counted

    return try_all
