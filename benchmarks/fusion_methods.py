"""PQ on val of every method, preset and routing, plain and calibrated, with 95 % intervals.

    python benchmarks/fusion_methods.py --prepared data/prepared --predictions data/predictions --routing data/routing

needs what `prepare`, `predict` and `evaluate_heldout` wrote; what is calibrated is fitted here, as stage `calibrate`
does it. Nothing is written; the table is Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from antvisionps.datasets.splits import open_split
from antvisionps.evaluation.bootstrap import draw_images, percentile_interval, resampled_pq
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.fusion.heuristic import PRESETS
from antvisionps.fusion.system import FusionSettings
from antvisionps.parallel import map_images
from antvisionps.params import FUSION_SYSTEM, Params, load_params
from antvisionps.systems import plain_settings, with_calibration

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from calibrate import Trials, calibrate, open_trying, starting_settings

OTHER_FUSIONS: dict[str, dict[str, object]] = {
    "single": {"routing": "single"},
    "union": {"routing": "union"},
    "log-probabilities": {"semantic_average": "log_probabilities"},
    "union and log-probabilities": {"routing": "union", "semantic_average": "log_probabilities"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name in ("prepared", "predictions", "routing"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    truth = open_split(arguments.prepared, "val")
    draws = draw_images(len(truth.images), samples=params.score.bootstrap_samples, seed=params.score.seed)
    groups = {
        "PQ": truth.categories.categories,
        "PQ things": truth.categories.things,
        "PQ stuff": truth.categories.stuff,
    }
    print(f"| system | method | {' | '.join(groups)} |\n|---|---|{'---:|' * len(groups)}")
    for system in params.fuse.systems:
        rows = dict(variants(system, params, arguments))
        counts = count(rows, arguments.prepared, arguments.predictions, params.runtime.workers)
        for name, of_images in counts.items():
            cells = []
            for categories in groups.values():
                ids = [category.category_id for category in categories]
                quality = group_quality(class_quality(total_counts(of_images)), ids)
                interval = percentile_interval(resampled_pq(of_images, draws, category_ids=ids))
                cells.append(f"{100 * quality.pq:.1f} ({100 * interval.low:.1f}–{100 * interval.high:.1f})")
            print(f"| {system} | {name} | {' | '.join(cells)} |")


def variants(system: str, params: Params, places: argparse.Namespace) -> Iterator[tuple[str, FusionSettings]]:
    categories = open_split(places.prepared, "val").categories

    def settings(**changes: object) -> FusionSettings:
        chosen = params.fuse.keyword_arguments(system) | changes
        return plain_settings(system, ends=params.all_ends, categories=categories, routing_dir=places.routing, **chosen)

    def calibrated(**changes: object) -> FusionSettings:
        """Fitted here, on the held-out images, from where stage calibrate begins."""
        start = starting_settings(system, params, categories=categories, routing_dir=places.routing, **changes)
        trials = Trials(places.prepared, places.predictions, categories, params.runtime.workers)
        fitted = calibrate(start, trials, min_heldout_instances=params.calibrate.min_heldout_instances)
        return with_calibration(settings(**changes), fitted)

    plain = settings()
    yield "heuristic, params.yaml", replace(plain, method="heuristic")
    for preset in PRESETS:
        yield f"heuristic, {preset}", replace(settings(preset=preset), method="heuristic")
    yield "panoptic head, params.yaml", replace(plain, method="panoptic_head")
    yield "panoptic head, upsnet", replace(settings(preset="upsnet"), method="panoptic_head")
    yield "heuristic, calibrated", calibrated(method="heuristic")
    if system == FUSION_SYSTEM:
        for name, changes in OTHER_FUSIONS.items():
            yield f"heuristic, {name}", settings(method="heuristic", **changes)
            yield f"heuristic, {name}, calibrated", calibrated(method="heuristic", **changes)
        yield "panoptic head, union", settings(method="panoptic_head", routing="union")


def count(
    settings: dict[str, FusionSettings], prepared: Path, predictions: Path, workers: int
) -> dict[str, list[MatchCounts]]:
    images = open_split(prepared, "val").images
    open_work = partial(open_trying, prepared, predictions, list(settings.values()), "val")
    of_images = list(map_images(open_work, images, workers=workers, description="fuse"))
    return {name: [image[index] for image in of_images] for index, name in enumerate(settings)}


if __name__ == "__main__":
    main()
