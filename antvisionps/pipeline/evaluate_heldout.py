"""What stage `evaluate_heldout` does: mask AP of every end on held-out images, and which end has which category."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.json_files import write_json
from antvisionps.evaluation.average_precision import (
    CategoryAP,
    CategoryMatches,
    ImageMatches,
    average_precision,
    match_image,
    matches_of_categories,
    resampled_average_precision,
)
from antvisionps.evaluation.bootstrap import draw_images, percentile_interval
from antvisionps.fusion.routing import (
    CLASS_AP_FILE,
    CLASS_AP_SCHEMA,
    ROUTING_FILE,
    Lead,
    route_categories,
    routes_to_json,
    runner_up,
)
from antvisionps.fusion.system import load_kernels
from antvisionps.panoptic.gt_instances import open_annotated, visible_instances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import map_images, open_workers
from antvisionps.params.whole import Params
from antvisionps.predictions.split_caches import SplitCaches


def evaluate_heldout(params: Params, *, prepared: Path, predictions: Path, out: Path) -> None:
    """Writes OUT/class_ap.parquet and OUT/routing.json."""
    caches = SplitCaches.open(predictions, prepared, "heldout", promised=params.promised_kinds())
    with atomic_folder(out) as folder:
        ap, table = _route_categories(caches, params)
        pq.write_table(_class_ap_table(ap), folder / CLASS_AP_FILE, write_page_checksum=True)
        write_json(folder / ROUTING_FILE, table)


def _route_categories(caches: SplitCaches, params: Params) -> tuple[dict[str, dict[int, CategoryAP]], Any]:
    """AP by end and category, and what routing.json holds."""
    settings = params.evaluate_heldout
    dataset = caches.dataset
    load_kernels()
    with open_workers(**params.runtime.worker_arguments()) as workers:
        open_work = partial(_open_matching, caches, params.all_ends)
        images = list(map_images(open_work, dataset.images, workers=workers, description="match heldout"))
    thing_ids = [category.category_id for category in dataset.categories.things]
    matches = {
        end: matches_of_categories([of_image[end] for of_image in images], category_ids=thing_ids) for end in images[0]
    }
    ap = {end: {key: average_precision(of) for key, of in of_end.items()} for end, of_end in matches.items()}
    mean_over_ious = {end: {category_id: row.ap for category_id, row in of_end.items()} for end, of_end in ap.items()}
    n_gt = {category_id: row.n_gt for of_end in ap.values() for category_id, row in of_end.items()}
    routes = route_categories(mean_over_ious, n_gt=n_gt, min_heldout_instances=settings.min_heldout_instances)
    draws = draw_images(len(dataset.images), samples=settings.bootstrap_samples, seed=settings.seed)
    leads = {
        category_id: lead
        for category_id, route in routes.items()
        if (lead := _measure_lead(category_id, route.end, mean_over_ious, matches, draws)) is not None
    }
    return ap, routes_to_json(routes, ap=mean_over_ious, categories=dataset.categories, leads=leads)


def _open_matching(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage], dict[str, ImageMatches]]:
    """End → its matches with the truth in an image; of the ends that have instances."""
    dataset = caches.dataset
    readers, annotated = caches.open_instances(ends), open_annotated(dataset)

    def match(image: PanopticImage) -> dict[str, ImageMatches]:
        if annotated is None:
            gt = visible_instances(dataset.load_segment_ids(image), image, dataset.categories)
        else:
            gt = annotated.read(image.image_id)
        return {end: match_image(reader.read(image.image_id), gt) for end, reader in readers.items()}

    return match


def _measure_lead(
    category_id: int,
    end: str,
    ap: Mapping[str, Mapping[int, float]],
    matches: Mapping[str, Mapping[int, CategoryMatches]],
    draws: np.ndarray,
) -> Lead | None:
    """By how much the end leads in this category, with a bootstrap over images; both ends see the same samples."""
    other = runner_up(end, {name: of_category[category_id] for name, of_category in ap.items()})
    if other is None:
        return None
    samples = [resampled_average_precision(matches[name][category_id], draws) for name in (end, other)]
    low, high = percentile_interval(samples[0] - samples[1])
    return Lead.of(other, ap[end][category_id] - ap[other][category_id], low, high)


def _class_ap_table(ap: dict[str, dict[int, CategoryAP]]) -> pa.Table:
    rows = [
        {"category_id": category_id, "end": end, "AP": row.ap, "AP50": row.ap50, "n_gt": row.n_gt}
        for end, of_end in ap.items()
        for category_id, row in of_end.items()
    ]
    return pa.Table.from_pylist(rows, schema=CLASS_AP_SCHEMA)
