"""PQ on val of every method, preset and ensemble of instances, plain and calibrated, with 95 % intervals.

    python -m benchmarks.fusion_methods --prepared data/prepared --predictions data/predictions --routing data/routing

needs what `prepare`, `predict` and `evaluate_heldout` wrote; what is calibrated is fitted here, as stage `calibrate`
does it. The last column is what calibration gains in PQ, with the interval of the difference: both are scored on the
same resampled images. Nothing is written; the table is Markdown.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from antvisionps.evaluation.bootstrap import ResampledCounts, draw_images, percentile_interval
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.fusion.heuristic import PRESETS
from antvisionps.fusion.system import FusionSettings
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.params.whole import FUSION_SYSTEM, Params, load_params
from antvisionps.pipeline.calibrate import HeldoutPQ, calibrate, starting_settings
from antvisionps.pipeline.settings import system_settings
from antvisionps.pipeline.try_settings import count_by_each
from antvisionps.predictions.split_caches import SplitCaches

OTHER_FUSIONS: dict[str, dict[str, object]] = {
    "best overall": {"instance_ensemble": "best_overall"},
    "union": {"instance_ensemble": "union"},
    "log-probabilities": {"semantic_average": "log_probabilities"},
    "union and log-probabilities": {"instance_ensemble": "union", "semantic_average": "log_probabilities"},
}
UNFITTED = {"calibrated": False, "order": "score"}


@dataclass(frozen=True)
class Variant:
    """A row of the table. `plain`: the name of the row that it is the calibrated one of, if any."""

    settings: FusionSettings
    plain: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name in ("prepared", "predictions", "routing"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    caches = SplitCaches.open(arguments.predictions, arguments.prepared, "val", promised=params.promised_kinds())
    print_methods(params, caches, arguments)


def print_methods(params: Params, caches: SplitCaches, places: argparse.Namespace) -> None:
    truth = caches.dataset
    draws = draw_images(len(truth.images), samples=params.score.bootstrap_samples, seed=params.score.seed)
    groups = groups_of(truth)
    print(f"| system | method | {' | '.join(groups)} | gain by calibration |\n|---|---|{'---:|' * (len(groups) + 1)}")
    for system in params.fuse.systems:
        rows = dict(variants(system, params, places))
        settings = [variant.settings for variant in rows.values()]
        of_each = count_by_each(
            settings, caches, truth.images, workers=params.runtime.workers, description=f"fuse {system}"
        )
        counts = dict(zip(rows, of_each, strict=True))
        for name, variant in rows.items():
            cells = [with_interval(counts[name], draws, ids) for ids in groups.values()]
            plain = counts.get(variant.plain)
            cells.append("" if plain is None else with_interval(counts[name], draws, groups["PQ"], minus=plain))
            print(f"| {system} | {name} | {' | '.join(cells)} |", flush=True)


def groups_of(truth: PanopticDataset) -> dict[str, list[int]]:
    return {
        "PQ": [category.category_id for category in truth.categories.categories],
        "PQ things": [category.category_id for category in truth.categories.things],
        "PQ stuff": [category.category_id for category in truth.categories.stuff],
    }


def with_interval(
    images: Sequence[MatchCounts],
    draws: np.ndarray,
    category_ids: Sequence[int],
    *,
    minus: Sequence[MatchCounts] | None = None,
) -> str:
    """PQ in percent with its interval, or the difference of two with that of the difference."""

    def sampled(counts: Sequence[MatchCounts]) -> tuple[float, np.ndarray]:
        quality = group_quality(class_quality(total_counts(counts)), category_ids)
        return quality.pq, ResampledCounts.of(counts, draws).pq(category_ids)

    value, samples = sampled(images)
    style = ".1f"
    if minus is not None:
        other_value, other_samples = sampled(minus)
        value, samples, style = value - other_value, samples - other_samples, "+.1f"
    interval = percentile_interval(samples)
    dash = "–" if minus is None else " to "
    return f"{100 * value:{style}} ({100 * interval.low:{style}}{dash}{100 * interval.high:{style}})"


def variants(system: str, params: Params, places: argparse.Namespace) -> Iterator[tuple[str, Variant]]:
    heldout = SplitCaches.open(places.predictions, places.prepared, "heldout", promised=params.promised_kinds())
    trial = HeldoutPQ(heldout, heldout.dataset.images, params.runtime.workers, params.calibrate.min_heldout_instances)

    def changed(method: str, **changes: object) -> Params:
        fuse = params.fuse.model_copy(update=UNFITTED | {"method": method, "methods": {}} | changes)
        return params.model_copy(update={"fuse": fuse})

    def settings(method: str, **changes: object) -> FusionSettings:
        return system_settings(
            system,
            changed(method, **changes),
            categories=heldout.dataset.categories,
            routing=places.routing,
            calibration=Path(),
        )

    def calibrated(plain: str, method: str, **changes: object) -> Variant:
        """Fitted here, on the held-out images, from where stage calibrate begins."""
        start = starting_settings(system, changed(method, **changes), caches=heldout, routing=places.routing)
        return Variant(calibrate(start, trial).apply(settings(method, **changes)), plain)

    for method, presets in (("heuristic", PRESETS), ("panoptic_head", ("upsnet",))):
        name = method.replace("_", " ")
        plain = f"{name}, params.yaml"
        yield plain, Variant(settings(method))
        for preset in presets:
            yield f"{name}, {preset}", Variant(settings(method, preset=preset))
        yield f"{name}, calibrated", calibrated(plain, method)
    if system == FUSION_SYSTEM:
        for other, changes in OTHER_FUSIONS.items():
            name = f"heuristic, {other}"
            yield name, Variant(settings("heuristic", **changes))
            yield f"{name}, calibrated", calibrated(name, "heuristic", **changes)
        yield "panoptic head, union", Variant(settings("panoptic_head", instance_ensemble="union"))


if __name__ == "__main__":
    main()
