"""Stage `calibrate`: the thresholds and semantic weights of every system that give the best PQ on the held-out split.

What is chosen where it is measured looks too good. So each half of the held-out images is also fused with what was
chosen on the other half: that PQ tells whether calibration helps on images that it has not seen.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from antvisionps.atomic import atomic_file, atomic_folder
from antvisionps.categories import CategorySet
from antvisionps.coco_panoptic import PanopticDataset, PanopticImage
from antvisionps.datasets.splits import SplitName, dataset_fingerprint, open_split
from antvisionps.evaluation.panoptic_quality import (
    MatchCounts,
    class_quality,
    count_matches,
    group_quality,
    total_counts,
)
from antvisionps.fusion.calibration import (
    Calibration,
    choose_min_scores,
    choose_on_top,
    count_visible,
    try_stuff,
    try_thresholds,
    try_weights,
)
from antvisionps.fusion.heuristic import to_segments
from antvisionps.fusion.system import FusionSettings, fuse_by_each, join, load_kernels
from antvisionps.parallel import Workers, map_images, open_workers
from antvisionps.params import FUSION_SYSTEM, Params, load_params
from antvisionps.predictions.ends import SplitCaches
from antvisionps.segment_runs import find_runs
from antvisionps.stage import run_stage
from antvisionps.systems import plain_settings, with_calibration

CHOICES = frozenset({"method", "routing", "min_joined_iou", "instance_weights", "semantic_average"})
"""Keys of the section fuse that the search takes as they are: params of the stage, beside its own section."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--system", help=f"only this one, {FUSION_SYSTEM} or an end (default: all of fuse.systems)")
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, help=f"what stage evaluate_heldout wrote; only for {FUSION_SYSTEM}")
    out_help = "folder to write, replaced whole: with a JSON file for each system; with --system that file"
    parser.add_argument("--out", type=Path, required=True, help=out_help)
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    heldout = open_split(arguments.prepared, "heldout")
    systems = params.fuse.systems if arguments.system is None else [arguments.system]
    settings = {}
    for system in systems:
        params.refuse_unknown_system(system)
        settings[system] = starting_settings(
            system, params, categories=heldout.categories, routing_dir=arguments.routing
        )
    load_kernels()  # once: the processes of every pass are forked from this one
    with open_workers(**params.runtime.worker_arguments()) as workers:
        trials = Trials(arguments.prepared, arguments.predictions, heldout.categories, heldout.images, workers)
        found = {
            system: _calibrate_and_check(
                system, begin, trials, min_heldout_instances=params.calibrate.min_heldout_instances
            )
            for system, begin in settings.items()
        }
    if arguments.system is None:
        with atomic_folder(arguments.out) as folder:
            for system, calibration in found.items():
                _write(folder / f"{system}.json", calibration)
    else:
        with atomic_file(arguments.out) as unfinished:
            _write(unfinished, found[arguments.system])


def _calibrate_and_check(
    system: str, settings: FusionSettings, trials: Trials, *, min_heldout_instances: int
) -> Calibration:
    calibration = calibrate(settings, trials, min_heldout_instances=min_heldout_instances)
    cross_validated = cross_validated_pq(settings, trials, min_heldout_instances=min_heldout_instances)
    calibration = replace(calibration, heldout_pq={**calibration.heldout_pq, "cross_validated": cross_validated})
    percents = (f"{name} {'–' if pq is None else f'{100 * pq:.1f}'}" for name, pq in calibration.heldout_pq.items())
    print(f"{system}, held-out PQ in percent: {', '.join(percents)}")
    return calibration


def _write(path: Path, calibration: Calibration) -> None:
    path.write_text(json.dumps(calibration.to_json(), indent=2) + "\n", encoding="utf-8")


def starting_settings(
    system: str, params: Params, *, categories: CategorySet, routing_dir: Path | None, **changes: object
) -> FusionSettings:
    """Where the search begins: what fuse has for the choices that are no numbers, and the section calibrate for those
    that are. `changes` are of the former."""
    choices = {name: value for name, value in params.fuse.keyword_arguments(system).items() if name in CHOICES}
    return plain_settings(
        system,
        ends=params.all_ends,
        categories=categories,
        routing_dir=routing_dir,
        preset=None,
        semantic_weights=dict.fromkeys(params.all_ends, 1.0),
        **params.calibrate.model_dump(exclude={"min_heldout_instances"}),
        **(choices | changes),
    )


@dataclass(frozen=True)
class Trials:
    """Runs settings over held-out images, all in one pass, and remembers nothing."""

    prepared: Path
    predictions: Path
    categories: CategorySet
    images: Sequence[PanopticImage]
    workers: Workers

    def counts(self, settings: Sequence[FusionSettings]) -> list[MatchCounts]:
        """The total counts of each."""
        open_work = partial(open_trying, self.prepared, self.predictions, settings)
        totals = None
        for of_image in map_images(open_work, self.images, workers=self.workers, description="calibrate"):
            totals = of_image if totals is None else [total_counts(pair) for pair in zip(totals, of_image, strict=True)]
        return totals or []

    def wins(self, settings: FusionSettings) -> np.ndarray:
        """See `count_visible`, over all images."""
        open_work = partial(_open_watching, self.prepared, self.predictions, settings)
        return sum(map_images(open_work, self.images, workers=self.workers, description="occlusions"), np.zeros(()))

    def pq(self, counts: MatchCounts) -> float:
        """Of all categories; 0 where there is nothing to measure."""
        ids = self.categories.category_ids.tolist()
        quality = group_quality(class_quality(counts), ids).pq
        return 0.0 if math.isnan(quality) else quality


def calibrate(settings: FusionSettings, trials: Trials, *, min_heldout_instances: int) -> Calibration:
    """Coordinate by coordinate: weights, scores and overlap, scores of each class, order, stuff.

    A step is taken only if it raises PQ, so the result is never worse held-out than the settings it began with.
    """
    (before,) = trials.counts([settings])
    best, best_pq = settings, trials.pq(before)

    def take_best(tried: Sequence[FusionSettings]) -> list[MatchCounts]:
        nonlocal best, best_pq
        counts = trials.counts(tried) if tried else []
        for candidate, found in zip(tried, counts, strict=True):
            if trials.pq(found) > best_pq:
                best, best_pq = candidate, trials.pq(found)
        return counts

    take_best(list(try_weights(best)))
    thresholds = list(try_thresholds(best))
    counts = take_best(thresholds)
    pq_of_class = {
        tried.rules.min_score: {category_id: quality.pq for category_id, quality in class_quality(found).items()}
        for tried, found in zip(thresholds, counts, strict=True)
        if tried.rules.max_overlap_frac == best.rules.max_overlap_frac
    }
    (reached,) = trials.counts([best])
    pq_of_class[best.rules.min_score] = {c: quality.pq for c, quality in class_quality(reached).items()}
    min_scores = choose_min_scores(
        pq_of_class,
        n_true=_true_things(before, trials.categories),
        min_instances=min_heldout_instances,
        default=best.rules.min_score,
    )
    take_best([replace(best, rules=replace(best.rules, min_scores=min_scores))] if min_scores else [])
    on_top: frozenset[tuple[int, int]] = frozenset()
    if best.method == "heuristic":
        thing_ids = [category.category_id for category in trials.categories.things]
        on_top = choose_on_top(trials.wins(best), thing_ids, min_overlaps=min_heldout_instances)
        take_best([replace(best, rules=replace(best.rules, on_top=on_top))] if on_top else [])
    take_best(list(try_stuff(best)))
    return Calibration.of(best, learned_on_top=on_top, heldout_pq={"plain": trials.pq(before), "calibrated": best_pq})


def cross_validated_pq(settings: FusionSettings, trials: Trials, *, min_heldout_instances: int) -> float | None:
    """The PQ where each half of the images is fused with what `calibrate` finds on the other. One image has no half."""
    halves = [replace(trials, images=trials.images[first::2]) for first in (0, 1)]
    if not halves[1].images:
        return None
    counts = []
    for seen, unseen in (halves, reversed(halves)):
        calibration = calibrate(settings, seen, min_heldout_instances=min_heldout_instances)
        counts += unseen.counts([with_calibration(settings, calibration)])
    return trials.pq(total_counts(counts))


def _true_things(counts: MatchCounts, categories: CategorySet) -> dict[int, int]:
    things = {category.category_id for category in categories.things}
    true = zip(counts.category_ids.tolist(), (counts.tp + counts.fn).tolist(), strict=True)
    return {category_id: number for category_id, number in true if category_id in things}


def open_trying(
    prepared: Path, predictions: Path, settings: Sequence[FusionSettings], split: SplitName = "heldout"
) -> Callable[[PanopticImage], list[MatchCounts]]:
    """What fuses an image by every one of the settings, of the same ends, and counts how well it did."""
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


def _open_watching(
    prepared: Path, predictions: Path, settings: FusionSettings
) -> Callable[[PanopticImage], np.ndarray]:
    dataset = open_split(prepared, "heldout")
    caches = SplitCaches(predictions, "heldout", dataset_fingerprint(prepared), dataset)
    instances = caches.open_instances(list(settings.weight_of_end), mask_probs=settings.needs_mask_probs)

    def watch(image: PanopticImage) -> np.ndarray:
        found = {end: reader.read(image.image_id) for end, reader in instances.items()}
        return count_visible(
            join(found, settings).instances,
            _category_map(dataset, image),
            categories=dataset.categories,
            settings=settings,
        )

    return watch


def _category_map(dataset: PanopticDataset, image: PanopticImage) -> np.ndarray:
    """(H, W) int32 category ids of the truth, 0 where void."""
    segment_ids = dataset.load_segment_ids(image)
    categories = np.zeros(int(segment_ids.max(initial=0)) + 1, dtype=np.int32)
    for segment in image.segments:
        categories[segment.segment_id] = segment.category_id
    return categories[segment_ids]


if __name__ == "__main__":
    run_stage(main)
