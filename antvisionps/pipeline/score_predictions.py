"""The part of stage `score` that reads what the ends predicted: the error budget and how good the ends are, in one pass
over the images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.panoptic.gt_instances import open_annotated, visible_instances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.params.whole import Params
from antvisionps.pipeline.error_budget import ErrorBudget, count_budget, plan_budget, total_budget
from antvisionps.pipeline.score_ends import EndsQuality, MeasuredEnds, measure_ends, total_ends
from antvisionps.pipeline.try_settings import GtImage, PredictionsReader
from antvisionps.predictions.split_caches import SplitCaches


def measure_predictions(
    params: Params, caches: SplitCaches, *, routing: Path, calibration: Path, workers: Workers
) -> tuple[dict[str, MatchCounts], EndsQuality]:
    """The error budget, perfect part → counts, and the quality of the ends, on the caches' split."""
    budget = plan_budget(params, caches, routing=routing, calibration=calibration, workers=workers)
    open_work = partial(_open_measuring, caches, params.all_ends, budget)
    images = map_images(open_work, caches.dataset.images, workers=workers, description="error budget and ends")
    counts, measured = zip(*images, strict=True)
    return total_budget(counts), total_ends(measured, caches.dataset.categories)


def _open_measuring(
    caches: SplitCaches, ends: Sequence[str], budget: ErrorBudget
) -> Callable[[PanopticImage], tuple[dict[str, MatchCounts], MeasuredEnds]]:
    dataset, categories = caches.dataset, caches.dataset.categories
    instances = caches.open_instances(ends, mask_probs=budget.settings.needs_mask_probs)
    reader, annotated = PredictionsReader(instances, caches.open_semantics(ends)), open_annotated(dataset)

    def measure(image: PanopticImage) -> tuple[dict[str, MatchCounts], MeasuredEnds]:
        gt = GtImage.load(dataset, image)
        visible = visible_instances(gt.segment_ids, image, categories)
        gt_instances = visible if annotated is None else annotated.read(image.image_id)
        found = reader.read(image.image_id)
        counts = count_budget(budget, gt, visible, *found, categories)
        return counts, measure_ends(gt, gt_instances, *found, categories)

    return measure
