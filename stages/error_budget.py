"""Second half of stage `score`: where the fusion loses PQ on val, by how much it would gain if one part were perfect.

Each row replaces one part by the truth and keeps the rest: the semantic map, the instances, the routing (each category
from the end that does better on val), the order in which instances are pasted (by their IoU with the truth). Always
under the heuristic, whatever the system's method, and calibrated only where system `fusion` is; the first row says
where that is not what was fused. No result of it is used anywhere: it looks at the truth of val.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.atomic import atomic_file
from antvisionps.coco_panoptic import PanopticDataset, PanopticImage, class_index_map
from antvisionps.datasets.splits import dataset_fingerprint, open_split
from antvisionps.evaluation.panoptic_quality import (
    MatchCounts,
    class_quality,
    count_matches,
    group_quality,
    total_counts,
)
from antvisionps.fusion.heuristic import FusedImage, HeuristicRules, choose_candidates, fuse_image, to_segments
from antvisionps.fusion.semantic_average import SemanticAverage
from antvisionps.fusion.system import FusionSettings, average_weighted, join
from antvisionps.parallel import Workers, map_images, open_workers
from antvisionps.params import FUSION_SYSTEM, load_params
from antvisionps.predictions.ends import SplitCaches
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.rle import encode_masks
from antvisionps.segment_runs import SegmentRuns, find_runs
from antvisionps.stage import run_stage
from antvisionps.systems import fused_settings

AS_FUSED, BY_THE_HEURISTIC, NOT_CALIBRATED = "as fused", "by the heuristic", "not calibrated"
TRUE_SEMANTICS, TRUE_INSTANCES = "true semantics", "true instances"
PERFECT_ROUTING, PERFECT_ORDER = "perfect routing", "perfect order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, required=True, help="what stage evaluate_heldout wrote")
    parser.add_argument(
        "--calibration", type=Path, help="what stage calibrate wrote; for fuse.calibrated and fuse.order: learned"
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    truth = open_split(arguments.prepared, "val")
    choices = params.fuse.keyword_arguments(FUSION_SYSTEM)
    plain = {"calibrated": False, "order": "score"}
    is_fitted = FUSION_SYSTEM in params.fuse.systems  # stage calibrate fits those alone
    settings = fused_settings(
        FUSION_SYSTEM,
        ends=params.all_ends,
        categories=truth.categories,
        routing_dir=arguments.routing,
        calibration_dir=arguments.calibration,
        **(choices if is_fitted else choices | plain),
    )
    others = [] if settings.method == "heuristic" else [BY_THE_HEURISTIC]
    if not is_fitted and choices != choices | plain:
        others.append(NOT_CALIBRATED)
    with open_workers(**params.runtime.worker_arguments()) as workers:
        counts = count_budget(arguments.prepared, arguments.predictions, truth, settings, workers=workers)
    first = ", ".join(others) or AS_FUSED
    write_budget(arguments.out, {first: counts.pop(AS_FUSED), **counts}, truth)


def count_budget(
    prepared: Path, predictions: Path, truth: PanopticDataset, settings: FusionSettings, *, workers: Workers
) -> dict[str, MatchCounts]:
    """Perfect part → counts. Routing is looked for in a first pass that takes all from one end after another."""
    thing_ids = [category.category_id for category in truth.categories.things]
    alone = {end: replace(settings, end_of_category=dict.fromkeys(thing_ids, end)) for end in settings.weight_of_end}

    def count(open_work: Callable[[], Callable[[PanopticImage], dict[str, MatchCounts]]]) -> dict[str, MatchCounts]:
        images = list(map_images(open_work, truth.images, workers=workers, description="error budget"))
        return {name: total_counts([image[name] for image in images]) for name in images[0]}

    counts_alone = count(partial(_open_routing, prepared, predictions, settings, alone))
    quality_of = {end: class_quality(found) for end, found in counts_alone.items()}
    best_end = {
        category_id: max(alone, key=lambda end: getattr(quality_of[end].get(category_id), "pq", 0.0))
        for category_id in thing_ids
    }
    perfectly_routed = replace(settings, end_of_category=best_end)
    return count(partial(_open_counting, prepared, predictions, settings, perfectly_routed))


def _open_routing(
    prepared: Path, predictions: Path, settings: FusionSettings, routings: Mapping[str, FusionSettings]
) -> Callable[[PanopticImage], dict[str, MatchCounts]]:
    open_image = _open_reading(prepared, predictions, settings)

    def count(image: PanopticImage) -> dict[str, MatchCounts]:
        read = open_image(image)
        return {name: read.fuse(read.found, end_of_category=to.end_of_category) for name, to in routings.items()}

    return count


def _open_counting(
    prepared: Path, predictions: Path, settings: FusionSettings, perfectly_routed: FusionSettings
) -> Callable[[PanopticImage], dict[str, MatchCounts]]:
    open_image = _open_reading(prepared, predictions, settings)
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


def _open_reading(prepared: Path, predictions: Path, settings: FusionSettings) -> Callable[[PanopticImage], _Image]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    dataset = open_split(prepared, "val")
    caches = SplitCaches(predictions, "val", dataset_fingerprint(prepared), dataset)
    ends = list(settings.weight_of_end)
    instances_readers = caches.open_instances(ends, mask_probs=settings.needs_mask_probs)
    semantic_readers = caches.open_semantics([end for end, weight in settings.weight_of_end.items() if weight > 0])

    def read(image: PanopticImage) -> _Image:
        planes = {end: reader.read(image.image_id) for end, reader in semantic_readers.items()}
        found = {end: reader.read(image.image_id) for end, reader in instances_readers.items()}
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
            true_runs=self.runs,
            true=self.image.segments,
            predicted_runs=fused.runs,
            predicted=to_segments(fused.segments),
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


def write_budget(path: Path, counts: Mapping[str, MatchCounts], truth: PanopticDataset) -> None:
    groups = {
        "PQ": truth.categories.categories,
        "PQ_things": truth.categories.things,
        "PQ_stuff": truth.categories.stuff,
    }
    with atomic_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["perfect", *groups])
        for name, total in counts.items():
            of_class = class_quality(total)
            qualities = [
                group_quality(of_class, [category.category_id for category in categories])
                for categories in groups.values()
            ]
            writer.writerow([name, *(100 * quality.pq if quality.n_categories else "" for quality in qualities)])


if __name__ == "__main__":
    run_stage(main)
