"""The error budget of stage `score`: what the fusion would gain on val if one part were perfect.

Each row replaces one part by the truth and keeps the rest: the semantic map, the instances, the routing (each category
from the end that does better on val), the order in which instances are pasted (by their IoU with the truth). Always
under the heuristic, whatever the system's method, and calibrated only where system `fusion` is; the first row says
where that is not what was fused. No result of it is used anywhere: it looks at the truth of val.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.evaluation.panoptic_quality import (
    MatchCounts,
    class_quality,
    count_matches,
    group_quality,
    total_counts,
)
from antvisionps.fusion.heuristic import FusedImage, HeuristicRules, choose_candidates, coco_segments, fuse_image
from antvisionps.fusion.semantic_average import SemanticAverage
from antvisionps.fusion.system import FusionSettings, average_weighted, join
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_panoptic import PanopticDataset, PanopticImage, class_index_map
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segment_runs import SegmentRuns, find_runs
from antvisionps.parallel.images import Workers, map_images, open_workers
from antvisionps.params.whole import FUSION_SYSTEM, Params
from antvisionps.pipeline.settings import system_settings
from antvisionps.pipeline.try_settings import PredictionsReader
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.split_caches import SplitCaches

BUDGET_FILE = "error_budget.csv"

AS_FUSED, BY_THE_HEURISTIC, NOT_CALIBRATED = "as fused", "by the heuristic", "not calibrated"
TRUE_SEMANTICS, TRUE_INSTANCES = "true semantics", "true instances"
PERFECT_ROUTING, PERFECT_ORDER = "perfect routing", "perfect order"


def error_budget(params: Params, caches: SplitCaches, *, routing: Path, calibration: Path) -> dict[str, MatchCounts]:
    """Perfect part → counts of the system of all ends on the caches' split."""
    is_fitted = FUSION_SYSTEM in params.fuse.systems  # stage calibrate fits those alone
    plain = params.fuse.model_copy(update={"calibrated": False, "order": "score"})
    fitted = params if is_fitted else params.model_copy(update={"fuse": plain})
    settings = system_settings(
        FUSION_SYSTEM,
        fitted,
        categories=caches.dataset.categories,
        routing_dir=routing,
        calibration_dir=calibration,
    )
    unlike = [] if settings.method == "heuristic" else [BY_THE_HEURISTIC]
    if fitted.fuse != params.fuse:
        unlike.append(NOT_CALIBRATED)
    with open_workers(**params.runtime.worker_arguments()) as workers:
        counts = count_budget(caches, settings, workers=workers)
    return {", ".join(unlike) or AS_FUSED: counts.pop(AS_FUSED), **counts}


def count_budget(caches: SplitCaches, settings: FusionSettings, *, workers: Workers) -> dict[str, MatchCounts]:
    """Perfect part → counts. Routing is looked for in a first pass that takes all from one end after another."""
    truth = caches.dataset
    thing_ids = [category.category_id for category in truth.categories.things]
    alone = {end: replace(settings, end_of_category=dict.fromkeys(thing_ids, end)) for end in settings.weight_of_end}

    def count(open_work: Callable[[], Callable[[PanopticImage], dict[str, MatchCounts]]]) -> dict[str, MatchCounts]:
        images = list(map_images(open_work, truth.images, workers=workers, description="error budget"))
        return {name: total_counts([image[name] for image in images]) for name in images[0]}

    counts_alone = count(partial(_open_routing, caches, settings, alone))
    quality_of = {end: class_quality(found) for end, found in counts_alone.items()}
    best_end = {
        category_id: max(alone, key=lambda end: getattr(quality_of[end].get(category_id), "pq", 0.0))
        for category_id in thing_ids
    }
    perfectly_routed = replace(settings, end_of_category=best_end)
    return count(partial(_open_counting, caches, settings, perfectly_routed))


def _open_routing(
    caches: SplitCaches, settings: FusionSettings, routings: Mapping[str, FusionSettings]
) -> Callable[[PanopticImage], dict[str, MatchCounts]]:
    open_image = _open_reading(caches, settings)

    def count(image: PanopticImage) -> dict[str, MatchCounts]:
        read = open_image(image)
        return {name: read.fuse(read.found, end_of_category=to.end_of_category) for name, to in routings.items()}

    return count


def _open_counting(
    caches: SplitCaches, settings: FusionSettings, perfectly_routed: FusionSettings
) -> Callable[[PanopticImage], dict[str, MatchCounts]]:
    open_image = _open_reading(caches, settings)
    route = settings.end_of_category
    unlimited = replace(settings.rules, min_score=0.0, min_scores={}, max_nms_iou=None, on_top=frozenset())
    sure_of_stuff = replace(settings.rules, min_stuff_confidence=0.0)

    def count(image: PanopticImage) -> dict[str, MatchCounts]:
        read = open_image(image)
        true, joined = read.true, read.joined
        perfect_order = true.order(joined, settings)
        return {
            AS_FUSED: read.fuse(joined, end_of_category=route),
            TRUE_SEMANTICS: read.fuse(joined, true.class_map(), end_of_category=route, rules=sure_of_stuff),
            TRUE_INSTANCES: read.fuse({"": true.instances()}, end_of_category=None, rules=unlimited),
            PERFECT_ROUTING: read.fuse(read.found, end_of_category=perfectly_routed.end_of_category),
            PERFECT_ORDER: read.fuse(perfect_order, end_of_category=None, rules=unlimited),
        }

    return count


def _open_reading(caches: SplitCaches, settings: FusionSettings) -> Callable[[PanopticImage], _Image]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    dataset = caches.dataset
    reader = PredictionsReader.open(caches, [settings])

    def read(image: PanopticImage) -> _Image:
        found, planes = reader.read(image.image_id)
        average = average_weighted(planes, categories=dataset.categories, settings=settings)
        segment_ids = dataset.load_segment_ids(image)
        true = _TrueImage(image, segment_ids, find_runs(segment_ids, image.segments), dataset)
        return _Image(found, join(found, settings).instances, average, true, settings.rules)

    return read


@dataclass(frozen=True)
class _Image:
    """What all ends found in an image, as they found it and joined, the average of their semantics, and the truth."""

    found: Mapping[str, ImageInstances]
    joined: Mapping[str, ImageInstances]
    average: SemanticAverage
    true: _TrueImage
    rules: HeuristicRules

    def fuse(
        self,
        instances: Mapping[str, ImageInstances],
        class_map: np.ndarray | None = None,
        *,
        end_of_category: Mapping[int, str] | None,
        rules: HeuristicRules | None = None,
    ) -> MatchCounts:
        """The counts of what the heuristic makes of them; the class map and the rules are those predicted and set."""
        rules = self.rules if rules is None else rules
        fused = fuse_image(
            instances,
            self.average.class_map() if class_map is None else class_map,
            categories=self.true.dataset.categories,
            end_of_category=end_of_category,
            semantic_end="",
            rules=rules,
            confidence=self.average.confidence() if rules.min_stuff_confidence > 0 else None,
        )
        return self.true.count(fused)


@dataclass(frozen=True)
class _TrueImage:
    image: PanopticImage
    segment_ids: np.ndarray
    runs: SegmentRuns
    dataset: PanopticDataset

    def count(self, fused: FusedImage) -> MatchCounts:
        return count_matches(
            gt_runs=self.runs,
            true=self.image.segments,
            predicted_runs=fused.runs,
            predicted=coco_segments(fused.segments),
        )

    def class_map(self) -> np.ndarray:
        return class_index_map(self.segment_ids, self.image, self.dataset.categories)

    def instances(self) -> ImageInstances:
        """Every true thing but crowds, with a score of 1."""
        things = [
            segment
            for segment in self.image.segments
            if self.dataset.categories.by_id(segment.category_id).is_thing and not segment.is_crowd
        ]
        rles = [rle for thing in things for rle in encode_masks((self.segment_ids == thing.segment_id)[None])]
        return ImageInstances(
            image_id=self.image.image_id,
            height=self.image.height,
            width=self.image.width,
            category_ids=np.array([thing.category_id for thing in things], dtype=np.int32),
            scores=np.ones(len(things), dtype=np.float32),
            boxes_xywh=np.array([thing.bbox_xywh for thing in things], dtype=np.float32).reshape(-1, 4),
            rles=rles,
            mask_probs=None,
        )

    def order(self, found: Mapping[str, ImageInstances], settings: FusionSettings) -> dict[str, ImageInstances]:
        """The candidates that the rules let in; their scores are the best IoU with a thing of their category."""
        candidates, _ = choose_candidates(found, end_of_category=settings.end_of_category, rules=settings.rules)
        true = self.instances()
        ordered = {}
        for end, instances in found.items():
            kept = [candidate.index for candidate in candidates if candidate.end == end]
            ordered[end] = replace(
                instances,
                category_ids=instances.category_ids[kept],
                scores=_best_ious(instances, kept, true),
                boxes_xywh=instances.boxes_xywh[kept],
                rles=[instances.rles[index] for index in kept],
                mask_probs=None,
                stored_areas_px=instances.areas_px[kept],
            )
        return ordered


def _best_ious(found: ImageInstances, indices: Sequence[int], true: ImageInstances) -> np.ndarray:
    """(n,) float32, of each of the found instances the largest IoU with a true one of its category."""
    best = np.zeros(len(indices), dtype=np.float32)
    if not len(indices) or not len(true):
        return best
    _ = found.parse(indices)  # checks the masks, which pycocotools does not
    size = [found.height, found.width]
    ious = coco_mask.iou(
        [{"size": size, "counts": found.rles[index]} for index in indices],
        [{"size": size, "counts": rle} for rle in true.rles],
        [0] * len(true),
    )
    ious[found.category_ids[list(indices)][:, None] != true.category_ids] = 0
    return ious.max(axis=1).astype(np.float32)


def write_budget(path: Path, counts: Mapping[str, MatchCounts], categories: CategorySet) -> None:
    groups = {"PQ": categories.categories, "PQ_things": categories.things, "PQ_stuff": categories.stuff}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["perfect", *groups])
        for name, total in counts.items():
            of_class = class_quality(total)
            qualities = [
                group_quality(of_class, [category.category_id for category in group]) for group in groups.values()
            ]
            writer.writerow([name, *(100 * quality.pq if quality.n_categories else "" for quality in qualities)])
