"""What stage `evaluate_heldout` does: mask AP of every end on held-out images, and which end has which category."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_folder
from antvisionps.evaluation.average_precision import (
    CategoryAP,
    CategoryMatches,
    average_precision,
    matches_of_categories,
    resampled_average_precision,
)
from antvisionps.evaluation.bootstrap import draw_images, percentile_interval
from antvisionps.evaluation.instance_matches import match_instances
from antvisionps.fusion.routing import (
    CLASS_AP_FILE,
    CLASS_AP_SCHEMA,
    ROUTING_FILE,
    Lead,
    route_categories,
    routes_to_json,
    runner_up,
)
from antvisionps.parallel.images import open_workers
from antvisionps.params.whole import Params
from antvisionps.predictions.split_caches import SplitCaches


def evaluate_heldout(params: Params, *, prepared: Path, predictions: Path, out: Path) -> None:
    """Writes OUT/class_ap.parquet and OUT/routing.json."""
    caches = SplitCaches.open(predictions, prepared, "heldout", promised=params.promised_kinds())
    with atomic_folder(out) as folder:
        ap, table = _route_categories(caches, params)
        pq.write_table(_class_ap_table(ap), folder / CLASS_AP_FILE, write_page_checksum=True)
        (folder / ROUTING_FILE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _route_categories(caches: SplitCaches, params: Params) -> tuple[dict[str, dict[int, CategoryAP]], Any]:
    """AP by end and category, and what routing.json holds."""
    settings = params.evaluate_heldout
    dataset = caches.dataset
    with open_workers(**params.runtime.worker_arguments()) as workers:
        of_images = match_instances(caches, params.all_ends, workers=workers)
    thing_ids = [category.category_id for category in dataset.categories.things]
    matches = {end: matches_of_categories(of_end, category_ids=thing_ids) for end, of_end in of_images.items()}
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
