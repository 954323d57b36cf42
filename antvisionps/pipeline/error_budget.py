"""The error budget of stage `score`: what the fusion would gain on val if one part were perfect.

Each row replaces one part by the truth and keeps the rest: the semantic map, the instances, the routing (each category
from the end that does better on val), the order in which instances are pasted (by their IoU with the truth). Always
under the heuristic, whatever the system's method, and calibrated only where system `fusion` is, but not by method auto;
the first row says where that is not what was fused. No result of it is used anywhere: it looks at the truth of val.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from antvisionps.core.csv_files import write_csv
from antvisionps.evaluation.average_precision import mask_ious
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, total_counts
from antvisionps.evaluation.summary import summarize
from antvisionps.fusion.heuristic import choose_candidates, fuse_image
from antvisionps.fusion.system import FusionSettings, average_weighted, join, load_kernels
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import GtInstances
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.parallel.images import Workers
from antvisionps.params.whole import FUSION_SYSTEM, Params
from antvisionps.pipeline.settings import system_settings
from antvisionps.pipeline.try_settings import GtImage, count_by_each
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics
from antvisionps.predictions.split_caches import SplitCaches

BUDGET_FILE = "error_budget.csv"
COLUMN_OF_GROUP = {"All": "PQ", "Things": "PQ_things", "Stuff": "PQ_stuff"}

AS_FUSED, BY_THE_HEURISTIC, NOT_CALIBRATED = "as fused", "by the heuristic", "not calibrated"
TRUE_SEMANTICS, TRUE_INSTANCES = "true semantics", "true instances"
PERFECT_ROUTING, PERFECT_ORDER = "perfect routing", "perfect order"


@dataclass(frozen=True)
class ErrorBudget:
    """What is counted: the system of all ends by the heuristic, and routed perfectly; `first` names the row of the
    former."""

    first: str
    settings: FusionSettings
    perfectly_routed: FusionSettings


def plan_budget(
    params: Params, caches: SplitCaches, *, routing: Path, calibration: Path, workers: Workers
) -> ErrorBudget:
    """Looks for the perfect routing on the caches' split, in a pass that takes all from one end after another."""
    is_auto = params.fuse.method_of(FUSION_SYSTEM) == "auto"
    is_fitted = FUSION_SYSTEM in params.fuse.systems and not is_auto  # stage calibrate fits those alone
    plain = params.fuse.model_copy(update={"calibrated": False, "order": "score"})
    if is_auto:
        plain = plain.model_copy(update={"methods": {FUSION_SYSTEM: "heuristic"}})
    fitted = params if is_fitted else params.model_copy(update={"fuse": plain})
    settings = system_settings(
        FUSION_SYSTEM, fitted, categories=caches.dataset.categories, routing=routing, calibration=calibration
    )
    unlike = [BY_THE_HEURISTIC] if is_auto or settings.method != "heuristic" else []
    if fitted.fuse != params.fuse:
        unlike.append(NOT_CALIBRATED)
    load_kernels()
    settings = replace(settings, method="heuristic")
    routed = _route_perfectly(caches, replace(settings, union=None), workers=workers)
    return ErrorBudget(", ".join(unlike) or AS_FUSED, settings, routed)


def total_budget(images: Sequence[Mapping[str, MatchCounts]]) -> dict[str, MatchCounts]:
    """Perfect part → counts of all images."""
    return {name: total_counts([image[name] for image in images]) for name in images[0]}


def write_budget(path: Path, counts: Mapping[str, MatchCounts], categories: CategorySet) -> None:
    summaries = {name: summarize(total, categories) for name, total in counts.items()}
    rows = ([name, *(summary[group]["PQ"] for group in COLUMN_OF_GROUP)] for name, summary in summaries.items())
    write_csv(path, ["perfect", *COLUMN_OF_GROUP.values()], rows)


def _route_perfectly(caches: SplitCaches, settings: FusionSettings, *, workers: Workers) -> FusionSettings:
    """The settings where each thing category comes from the end whose instances give it the best PQ."""
    truth, ends = caches.dataset, list(settings.weight_of_end)
    thing_ids = [category.category_id for category in truth.categories.things]
    alone = [replace(settings, end_of_category=dict.fromkeys(thing_ids, end)) for end in ends]
    counts = count_by_each(alone, caches, truth.images, workers=workers, description="perfect routing")
    quality_of = {end: class_quality(total_counts(images)) for end, images in zip(ends, counts, strict=True)}
    best_end = {
        category_id: max(ends, key=lambda end: getattr(quality_of[end].get(category_id), "pq", 0.0))
        for category_id in thing_ids
    }
    return replace(settings, end_of_category=best_end)


def count_budget(
    budget: ErrorBudget,
    gt: GtImage,
    visible: GtInstances,
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    categories: CategorySet,
) -> dict[str, MatchCounts]:
    """Perfect part → counts of an image, from the instances that are visible in its true map and end → predictions."""
    settings, rules = budget.settings, budget.settings.rules
    sure_of_stuff = replace(settings, rules=replace(rules, min_stuff_confidence=0.0))
    no_limits = replace(rules, min_score=0.0, min_scores={}, max_nms_iou=None, on_top=frozenset())
    unlimited = replace(settings, end_of_category=None, rules=no_limits)
    average = average_weighted(semantics, categories=categories, settings=settings)
    joined = join(instances, settings).instances
    gt_classes = class_index_map(gt.segment_ids, gt.image, categories)

    def fuse(
        pasted: Mapping[str, ImageInstances], by: FusionSettings, class_map: np.ndarray | None = None
    ) -> MatchCounts:
        fused = fuse_image(
            pasted,
            average.class_map if class_map is None else class_map,
            categories=categories,
            end_of_category=by.end_of_category,
            semantic_end="",
            rules=by.rules,
            confidence=average.confidence() if by.rules.min_stuff_confidence > 0 else None,
        )
        return gt.count(fused)

    return {
        budget.first: fuse(joined, settings),
        TRUE_SEMANTICS: fuse(joined, sure_of_stuff, gt_classes),
        TRUE_INSTANCES: fuse({"": _without_crowds(visible, gt.image)}, unlimited),
        PERFECT_ROUTING: fuse(instances, budget.perfectly_routed),
        PERFECT_ORDER: fuse(_score_by_iou(joined, visible, settings), unlimited),
    }


def _without_crowds(visible: GtInstances, image: PanopticImage) -> ImageInstances:
    """Sure of each; without boxes, which only NMS and the panoptic head look at."""
    rows = zip(visible.category_ids.tolist(), visible.rles, visible.is_crowd.tolist(), strict=True)
    return ImageInstances.of(image, [(key, 1.0, (0, 0, 0, 0), rle) for key, rle, is_crowd in rows if not is_crowd])


def _score_by_iou(
    found: Mapping[str, ImageInstances], visible: GtInstances, settings: FusionSettings
) -> dict[str, ImageInstances]:
    """The candidates that the rules let in; their scores are the best IoU with a true thing of their category."""
    candidates, _ = choose_candidates(found, end_of_category=settings.end_of_category, rules=settings.rules)
    scored = {}
    for end, instances in found.items():
        kept = [candidate.index for candidate in candidates if candidate.end == end]
        scored[end] = replace(instances.take(kept), scores=_best_ious(instances, kept, visible), mask_probs=None)
    return scored


def _best_ious(found: ImageInstances, indices: Sequence[int], visible: GtInstances) -> np.ndarray:
    """(n,) float32, of each of the found instances the largest IoU with a true one of its category, 0 without one."""
    places, single = np.array(indices, dtype=np.int64), np.flatnonzero(~visible.is_crowd)
    is_same = found.category_ids[places][:, None] == visible.category_ids[single]
    ious = np.where(is_same, mask_ious(found, places, visible, single), 0)
    return ious.max(axis=1, initial=0).astype(np.float32)
