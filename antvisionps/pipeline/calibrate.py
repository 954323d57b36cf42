"""What stage `calibrate` does: the thresholds and semantic weights of each system with the best PQ on held-out images.

What is chosen where it is measured looks too good. So each half of the held-out images is also fused with what was
chosen on the other half: that PQ tells whether calibration helps on images that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path

import numpy as np

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.json_files import write_json
from antvisionps.core.progress import progress
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, total_counts
from antvisionps.fusion.calibration import (
    RULES,
    Calibration,
    choose_min_scores,
    choose_on_top,
    count_visible,
    try_stuff,
    try_thresholds,
    try_weights,
)
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.system import FusionSettings, join, load_kernels
from antvisionps.fusion.temperature import write_temperatures
from antvisionps.fusion.voting_document import AutoRules
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.parallel.images import Workers, map_images, open_workers
from antvisionps.params.whole import Params
from antvisionps.pipeline.calibrate_auto import calibrate_auto
from antvisionps.pipeline.fit_temperatures import fit_temperatures
from antvisionps.pipeline.settings import plain_settings
from antvisionps.pipeline.try_settings import PredictionsReader, count_by_each, pq_or_zero
from antvisionps.predictions.split_caches import SplitCaches

STEPS = 6
"""Passes of `calibrate` over the images that count."""


def calibrate_systems(
    params: Params, *, prepared: Path, predictions: Path, routing: Path, out: Path
) -> dict[str, Calibration]:
    """Writes OUT/<system>.json for each of fuse.systems, and the ends' temperatures where they are asked for; returns
    what those hold whose method is not `auto`."""
    caches = SplitCaches.open(predictions, prepared, "heldout", promised=params.promised_kinds())
    settings = {
        system: starting_settings(system, params, caches=caches, routing=routing)
        for system in params.fuse.systems
        if params.fuse.method_of(system) != "auto"
    }
    load_kernels()
    with atomic_folder(out) as folder, open_workers(**params.runtime.worker_arguments()) as workers:
        temperatures: dict[str, float] = {}
        if params.calibrate.temperature:
            temperatures = fit_temperatures(caches, params.all_ends, workers)
            write_temperatures(folder, temperatures)
        settings = {system: replace(begin, temperature_of_end=temperatures) for system, begin in settings.items()}
        overlap, fuse = params.calibrate.max_overlap_frac, params.fuse
        rules = AutoRules(overlap, fuse.min_joined_iou, fuse.semantic_average, temperatures)
        heldout = HeldoutPQ(caches, caches.dataset.images, workers, params.calibrate.min_heldout_instances)
        found = {system: calibrate_and_validate(system, begin, heldout) for system, begin in settings.items()}
        for system, calibration in found.items():
            write_json(folder / f"{system}.json", calibration.model_dump(mode="json"))
        for system in params.fuse.systems:
            if system not in settings:
                ends = [system] if system in params.all_ends else params.all_ends
                voting = calibrate_auto(system, ends, caches, rules=rules, workers=workers)
                write_json(folder / f"{system}.json", voting.model_dump(mode="json"))
    return found


def starting_settings(system: str, params: Params, *, caches: SplitCaches, routing: Path) -> FusionSettings:
    """Where the search begins: at the thresholds of section calibrate and equal semantic weights."""
    begin = params.calibrate
    return plain_settings(
        system,
        params.fuse,
        rules=HeuristicRules(begin.min_score, begin.max_overlap_frac, begin.min_stuff_area_px),
        weight_of_end=dict.fromkeys(params.all_ends, 1.0),
        categories=caches.dataset.categories,
        routing=routing,
    )


def calibrate_and_validate(system: str, settings: FusionSettings, heldout: HeldoutPQ) -> Calibration:
    """Fits on all images. Prints their PQ, and that of each half by what was fitted on the other. Shows a bar."""
    steps = 3 * STEPS + 2  # on all images, on each half, and each half by what was found on the other
    with progress(description=f"calibrate {system}", total=steps, unit="step") as bar:
        heldout = replace(heldout, on_step=bar.update)
        calibration = calibrate(settings, heldout)
        cross_validated = cross_validated_pq(settings, heldout)
    pq_of = calibration.heldout_pq | {"cross_validated": cross_validated}
    calibration = calibration.model_copy(update={"heldout_pq": pq_of})
    percents = (f"{name} {'–' if pq is None else f'{100 * pq:.1f}'}" for name, pq in pq_of.items())
    print(f"{system}, held-out PQ in percent: {', '.join(percents)}")
    return calibration


@dataclass(frozen=True)
class HeldoutPQ:
    """Fuses held-out images by settings that are tried, and scores them. A class with fewer instances than
    `min_instances` is left at what all have."""

    caches: SplitCaches
    images: Sequence[PanopticImage]
    workers: Workers
    min_instances: int
    on_step: Callable[[], object] = lambda: None

    def count(self, settings: Sequence[FusionSettings]) -> list[_Found]:
        """The total counts of each of the settings, in one pass over the images: a step of the bar even without any."""
        of_images: list[list[MatchCounts]] = []
        if settings:
            of_images = count_by_each(settings, self.caches, self.images, workers=self.workers, description=None)
        self.on_step()
        # Added up image by image, which fixes how the sums are rounded.
        totals = [reduce(lambda *pair: total_counts(pair), counts) for counts in of_images]
        return [_Found(tried, total) for tried, total in zip(settings, totals, strict=True)]

    def wins(self, settings: FusionSettings) -> np.ndarray:
        """See `count_visible`, over all images."""
        open_work = partial(_open_counting_visible, self.caches, settings)
        return sum(map_images(open_work, self.images, workers=self.workers, description=None), np.zeros(()))

    def pq(self, counts: MatchCounts) -> float:
        """Of all categories; 0 where there is nothing to measure."""
        return pq_or_zero(counts, self.caches.dataset.categories.category_ids.tolist())

    def gt_things(self, counts: MatchCounts) -> dict[int, int]:
        """category_id → how many true things of it the images show."""
        things = self.caches.dataset.categories.thing_ids
        gt = zip(counts.category_ids.tolist(), (counts.tp + counts.fn).tolist(), strict=True)
        return {category_id: number for category_id, number in gt if category_id in things}


@dataclass(frozen=True)
class _Found:
    settings: FusionSettings
    counts: MatchCounts

    def best(self, others: Sequence[_Found], heldout: HeldoutPQ) -> _Found:
        """The one of the highest PQ; of equal ones this one, then the first."""
        return max((self, *others), key=lambda found: heldout.pq(found.counts))


def calibrate(settings: FusionSettings, heldout: HeldoutPQ) -> Calibration:
    """Coordinate by coordinate: weights, scores and overlap, scores of each class, order, stuff.

    A step is taken only if it raises PQ, so the result is never worse held-out than the settings it began with.
    """
    begin = best = heldout.count([settings])[0]
    best = best.best(heldout.count(list(try_weights(best.settings))), heldout)
    tried = heldout.count(list(try_thresholds(best.settings)))
    best = best.best(tried, heldout)
    best = best.best(heldout.count(_with_min_scores(best, tried, begin, heldout)), heldout)
    on_top = _learn_on_top(best.settings, heldout)
    ordered = [replace(best.settings, rules=replace(best.settings.rules, on_top=on_top))] if on_top else []
    best = best.best(heldout.count(ordered), heldout)
    best = best.best(heldout.count(list(try_stuff(best.settings))), heldout)
    return Calibration(
        **{name: getattr(best.settings.rules, name) for name in RULES},
        learned_on_top=on_top,
        semantic_weights=dict(best.settings.weight_of_end),
        heldout_pq={"plain": heldout.pq(begin.counts), "calibrated": heldout.pq(best.counts)},
    )


def _with_min_scores(best: _Found, tried: Sequence[_Found], begin: _Found, heldout: HeldoutPQ) -> list[FusionSettings]:
    """The best settings with the score threshold of each class that had the best PQ of that class, if any differs."""
    rules = best.settings.rules
    alike = [found for found in tried if found.settings.rules.max_overlap_frac == rules.max_overlap_frac]
    pq_of_class: Mapping[float, Mapping[int, float]] = {
        found.settings.rules.min_score: {c: quality.pq for c, quality in class_quality(found.counts).items()}
        for found in (*alike, best)
    }
    min_scores = choose_min_scores(
        pq_of_class, n_gt=heldout.gt_things(begin.counts), min_instances=heldout.min_instances, default=rules.min_score
    )
    return [replace(best.settings, rules=replace(rules, min_scores=min_scores))] if min_scores else []


def _learn_on_top(settings: FusionSettings, heldout: HeldoutPQ) -> frozenset[tuple[int, int]]:
    """See `choose_on_top`; UPSNet's panoptic head pastes nothing, so it has no order."""
    if settings.method != "heuristic":
        return frozenset()
    thing_ids = [category.category_id for category in heldout.caches.dataset.categories.things]
    return choose_on_top(heldout.wins(settings), thing_ids, min_overlaps=heldout.min_instances)


def cross_validated_pq(settings: FusionSettings, heldout: HeldoutPQ) -> float | None:
    """The PQ where each half of the images is fused with what `calibrate` finds on the other. One image has no half."""
    halves = [replace(heldout, images=heldout.images[first::2]) for first in (0, 1)]
    if not halves[1].images:
        return None
    counts = []
    for seen, unseen in (halves, reversed(halves)):
        counts += unseen.count([calibrate(settings, seen).apply(settings)])
    return heldout.pq(total_counts([found.counts for found in counts]))


def _open_counting_visible(caches: SplitCaches, settings: FusionSettings) -> Callable[[PanopticImage], np.ndarray]:
    dataset = caches.dataset
    reader = PredictionsReader.open(caches, [settings])
    category_of_class = np.full(256, -1, dtype=np.int32)  # -1 where void
    category_of_class[: len(dataset.categories)] = dataset.categories.category_ids

    def count(image: PanopticImage) -> np.ndarray:
        found = reader.read_instances(image.image_id)
        return count_visible(
            join(found, settings).instances,
            category_of_class[class_index_map(dataset.load_segment_ids(image), image, dataset.categories)],
            categories=dataset.categories,
            settings=settings,
        )

    return count
