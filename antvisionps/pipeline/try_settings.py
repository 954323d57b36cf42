"""Fusion tried with many settings on the cached predictions of a split, in one pass over its images."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, count_matches, group_quality
from antvisionps.fusion.heuristic import FusedImage, coco_segments
from antvisionps.fusion.system import FusionSettings, fuse_by_each
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segment_runs import SegmentRuns, find_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.instances import ImageInstances, InstancesReader
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader
from antvisionps.predictions.split_caches import SplitCaches


@dataclass(frozen=True)
class PredictionsReader:
    """What the ends of some settings predicted of an image, end → instances and end → semantics."""

    instances: Mapping[str, InstancesReader]
    semantics: Mapping[str, SemanticReader]

    @classmethod
    def open(cls, caches: SplitCaches, settings: Iterable[FusionSettings]) -> PredictionsReader:
        """Raises CacheError where one of the settings does not find what it needs."""
        settings = list(settings)
        mask_probs = any(of_system.needs_mask_probs for of_system in settings)
        instances: dict[str, InstancesReader] = {}
        semantics: dict[str, SemanticReader] = {}
        for of_system in settings:
            instances |= caches.open_instances(list(of_system.weight_of_end), mask_probs=mask_probs)
            semantics |= caches.open_semantics(of_system.semantic_ends())
        return cls(instances, semantics)

    def read(self, image_id: int) -> tuple[dict[str, ImageInstances], dict[str, ImageSemantics]]:
        planes = {end: reader.read(image_id) for end, reader in self.semantics.items()}
        return self.read_instances(image_id), planes

    def read_instances(self, image_id: int) -> dict[str, ImageInstances]:
        return {end: reader.read(image_id) for end, reader in self.instances.items()}


@dataclass(frozen=True, eq=False)
class GtImage:
    """An image with its true map: segment_ids (H, W), and the same as runs."""

    image: PanopticImage
    segment_ids: np.ndarray
    runs: SegmentRuns

    @classmethod
    def load(cls, dataset: PanopticDataset, image: PanopticImage) -> GtImage:
        segment_ids = dataset.load_segment_ids(image)
        return cls(image, segment_ids, find_runs(segment_ids, image.segments))

    def count(self, fused: FusedImage) -> MatchCounts:
        return count_matches(
            gt_runs=self.runs,
            gt=self.image.segments,
            predicted_runs=fused.runs,
            predicted=coco_segments(fused.segments),
        )


def count_by_each(
    settings: Sequence[FusionSettings],
    caches: SplitCaches,
    images: Sequence[PanopticImage],
    *,
    workers: Workers,
    description: str | None,
) -> list[list[MatchCounts]]:
    """Of each of the settings the counts of every image, as stages fuse and score have them."""
    open_work = partial(_open_counting, settings, caches)
    of_images = map_images(open_work, images, workers=workers, description=description)
    return [list(of_settings) for of_settings in zip(*of_images, strict=True)]


def pq_or_zero(counts: MatchCounts, category_ids: Collection[int]) -> float:
    """PQ of these categories; 0 where there is nothing to measure."""
    pq = group_quality(class_quality(counts), category_ids).pq
    return 0.0 if math.isnan(pq) else pq


def _open_counting(
    settings: Sequence[FusionSettings], caches: SplitCaches
) -> Callable[[PanopticImage], list[MatchCounts]]:
    dataset = caches.dataset
    reader = PredictionsReader.open(caches, settings)

    def count(image: PanopticImage) -> list[MatchCounts]:
        gt = GtImage.load(dataset, image)
        found, planes = reader.read(image.image_id)
        by_each = fuse_by_each(found, planes, categories=dataset.categories, settings=settings)
        return [gt.count(fused) for fused in by_each]

    return count
