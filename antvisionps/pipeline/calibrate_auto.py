"""What stage `calibrate` does for a system of method `auto`: it fits what `segment_voting` needs for all ends together,
for all but one and for each alone, and chooses whose segments are taken, and how instances are pasted.

Each choice is measured on held-out images by what was fitted on the others, in FOLDS parts. All ends together are taken
unless fewer are better by more than the standard error of the difference: few held-out images tell little, and more
ends are rarely worse. The ends are chosen under the heuristic. Those that are taken are pasted by the panoptic head,
where all have mask probabilities, unless the heuristic is better by more than the standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from antvisionps.core.progress import progress
from antvisionps.evaluation.bootstrap import jackknife_error
from antvisionps.evaluation.panoptic_quality import MATCH_IOU, MatchCounts, match_segments, total_counts
from antvisionps.evaluation.segment_outcomes import best_gt_segments
from antvisionps.fusion.heuristic import FusedImage, coco_segments
from antvisionps.fusion.segment_quality import QualityModel, fit_quality, found_first, least_probabilities
from antvisionps.fusion.segment_voting import (
    Acceptance,
    PasteBy,
    SegmentFeatures,
    calibrate_scores,
    fuse_by_probability,
    paste_accepted,
    stuff_features,
    thing_feature_count,
    thing_features,
)
from antvisionps.fusion.system import FusionSettings, average_weighted, join
from antvisionps.fusion.voting_document import AutoRules, ChoiceOfEnds, VotingDocument
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.pipeline.heldout_pixels import HeldoutPixels, open_pixels
from antvisionps.pipeline.try_settings import GtImage, PredictionsReader, pq_or_zero
from antvisionps.predictions.split_caches import SplitCaches

FOLDS = 5
PASSES = 3
"""Over the images, for each choice and way to paste; one more for each choice."""

Labelled = tuple[SegmentFeatures, np.ndarray]
"""Segments of an image, and which of them match a true one, (N,) bool."""


@dataclass(frozen=True)
class HeldoutFits:
    """Fits on parts of the held-out images: on all, then on all but each fold; `seen` (1 + folds, images) bool."""

    caches: SplitCaches
    workers: Workers
    seen: np.ndarray
    on_pass: Callable[[], object]

    @property
    def images(self) -> Sequence[PanopticImage]:
        return self.caches.dataset.images

    @property
    def n_gt(self) -> list[dict[int, int]]:
        """Of each fit: category_id → true segments of the images that it sees, crowds apart."""
        ids = self.caches.dataset.categories.category_ids.tolist()
        listed = [[s.category_id for s in image.segments if not s.is_crowd] for image in self.images]
        return [
            {c: sum(image.count(c) for image, is_seen in zip(listed, seen, strict=True) if is_seen) for c in ids}
            for seen in self.seen
        ]

    def map(self, open_work: Callable[..., Callable[[int], Any]], *arguments: Any) -> list[Any]:
        """What the work gives for each image, by its position."""
        work = partial(open_work, self.caches, *arguments)
        results = list(map_images(work, range(len(self.images)), workers=self.workers, description=None))
        self.on_pass()
        return results

    def of_fit(self, fit: int, of_images: Sequence[Any]) -> list[Any]:
        """Of those of each image, the ones that the fit sees."""
        return [of_image for of_image, is_seen in zip(of_images, self.seen[fit], strict=True) if is_seen]


def fold_images(images: int) -> np.ndarray:
    """(1 + folds, images) bool: which images each fit sees; one image has no folds."""
    folds = min(FOLDS, images) if images > 1 else 0
    position = np.arange(images)
    return np.array([position >= 0, *(position % folds != fold for fold in range(folds))])


def calibrate_auto(
    system: str, ends: Sequence[str], caches: SplitCaches, *, rules: AutoRules, workers: Workers
) -> VotingDocument:
    """Fits and measures each choice of the ends; prints them, and returns the one to take."""
    choices = choices_of_ends(ends, caches)
    category_ids = caches.dataset.categories.category_ids.tolist()
    with progress(
        description=f"calibrate {system}", total=1 + (1 + PASSES) * len(choices) + PASSES, unit="pass"
    ) as bar:
        heldout = HeldoutFits(caches, workers, fold_images(len(caches.dataset.images)), bar.update)
        pixels = HeldoutPixels.join(heldout.map(open_pixels, sorted(ends), rules.temperature_of_end))
        settings = [rules.settings(pixels.weights(chosen)) for chosen in choices]
        things = [fit_things(each, heldout) for each in settings]
        fitted = [_fit_and_count(*each, "heuristic", heldout) for each in zip(settings, things, strict=True)]
        rows, taken = choose_ends(choices, [counts for _, counts in fitted], category_ids)
        acceptance = fitted[taken][0]
        if not pixels.without_mask_probs.intersection(choices[taken]):
            by_head = _fit_and_count(settings[taken], things[taken], "panoptic_head", heldout)
            rows.append(compare_counts(choices[taken], "panoptic_head", by_head[1], fitted[0][1], category_ids))
            of_heuristic = compare_counts(choices[taken], "heuristic", fitted[taken][1], by_head[1], category_ids)
            acceptance = acceptance if leads(of_heuristic) else by_head[0]
    for row in rows:
        print(f"{system}, {_describe(row)}")
    return VotingDocument(
        choices=tuple(rows),
        ends=tuple(choices[taken]),
        semantic_weights=dict(settings[taken].weight_of_end),
        min_joined_iou=rules.min_joined_iou,
        acceptance=acceptance,
    )


def _describe(row: ChoiceOfEnds) -> str:
    pq = "–" if row.heldout_pq is None else f"{100 * row.heldout_pq:.1f}"
    lead = ""
    if row.lead is not None and row.standard_error is not None:
        lead = f", {100 * row.lead:+.1f} ± {100 * row.standard_error:.1f} to the first choice"
    by = row.paste_by.replace("_", " ")
    return f"{'+'.join(row.ends)} by the {by}: cross-validated held-out PQ in percent {pq}{lead}"


def choices_of_ends(ends: Sequence[str], caches: SplitCaches) -> list[list[str]]:
    """All ends first, then all but one, then each alone; of these, what has both instances and semantics."""
    ends = sorted(ends)
    if len(ends) == 1:
        return [ends]
    with_instances, with_semantics = set(caches.open_instances(ends)), set(caches.open_semantics(ends))
    fewer = [[other for other in ends if other != end] for end in ends if len(ends) > 2]
    alone = [[end] for end in ends]
    return [ends, *(some for some in fewer + alone if with_instances & {*some} and with_semantics & {*some})]


def choose_ends(
    choices: Sequence[Sequence[str]], counts: Sequence[Sequence[MatchCounts]], category_ids: Sequence[int]
) -> tuple[list[ChoiceOfEnds], int]:
    """What is known of each choice under the heuristic, and the position of the one to take: the first, unless another
    leads it by more than the standard error of their difference; then the best of those. `counts`: of each choice those
    of the images, each measured by what was fitted on others; without any, nothing is known."""
    rows = [
        compare_counts(ends, "heuristic", of_images, counts[0] if position else None, category_ids)
        for position, (ends, of_images) in enumerate(zip(choices, counts, strict=True))
    ]
    leading = [position for position, row in enumerate(rows) if leads(row)]
    return rows, max(leading, key=lambda n: rows[n].heldout_pq or 0.0, default=0)


def leads(row: ChoiceOfEnds) -> bool:
    """By more than the standard error."""
    return row.lead is not None and row.lead > (row.standard_error or 0.0)


def compare_counts(
    ends: Sequence[str],
    paste_by: PasteBy,
    counts: Sequence[MatchCounts],
    other: Sequence[MatchCounts] | None,
    category_ids: Sequence[int],
) -> ChoiceOfEnds:
    """What the counts of the images tell of a choice, and of its difference to another, if there is one."""
    pq = pq_or_zero(total_counts(counts), category_ids) if len(counts) else None
    lead = error = None
    if other is not None and pq is not None:
        lead = pq - pq_or_zero(total_counts(other), category_ids)
        error = jackknife_error(counts, other, category_ids)
    return ChoiceOfEnds(ends=tuple(ends), paste_by=paste_by, heldout_pq=pq, lead=lead, standard_error=error)


@dataclass(frozen=True)
class FittedThings:
    """Of each image, by its position, the features of its joined instances; of each fit the things' regression."""

    features: Sequence[Mapping[str, SegmentFeatures]]
    models: Sequence[QualityModel]


def fit_things(settings: FusionSettings, heldout: HeldoutFits) -> FittedThings:
    """The regressions on all candidates."""
    thing_ids = [category.category_id for category in heldout.caches.dataset.categories.things]
    found = heldout.map(_open, settings, _collect)
    width = thing_feature_count(len(settings.weight_of_end))
    nothing = SegmentFeatures(np.zeros(0, dtype=np.int64), np.zeros((0, width)))
    labelled = [(SegmentFeatures.join([nothing, *features.values()]), right) for features, right in found]
    models = [_fit(heldout.of_fit(fit, labelled), thing_ids) for fit in range(len(heldout.seen))]
    return FittedThings([features for features, _ in found], models)


def _fit_and_count(
    settings: FusionSettings, things: FittedThings, paste_by: PasteBy, heldout: HeldoutFits
) -> tuple[Acceptance, list[MatchCounts]]:
    """What is fitted on all images; the counts of each image by the fit that does not see it."""
    accepted, *of_folds = fit_acceptances(settings, things, paste_by, heldout)
    unseen_by = np.argmin(heldout.seen[1:], axis=0) if of_folds else []
    of_image = [of_folds[fold] for fold in unseen_by]
    return accepted, heldout.map(_open, settings, _count, things.features, of_image) if of_folds else []


def fit_acceptances(
    settings: FusionSettings, things: FittedThings, paste_by: PasteBy, heldout: HeldoutFits
) -> list[Acceptance]:
    """Of each fit. First the things' least probabilities on those that are pasted if all may enter; then regression and
    least probabilities of the stuff that is left."""
    categories = heldout.caches.dataset.categories
    thing_ids, stuff_ids = ([c.category_id for c in group] for group in (categories.things, categories.stuff))
    pasted = heldout.map(_open, settings, _paste_by_each, things, paste_by, heldout.seen)
    least = [
        least_probabilities(*_join_pairs([of[fit] for of in heldout.of_fit(fit, pasted)]), _of(n_gt, thing_ids))
        for fit, n_gt in enumerate(heldout.n_gt)
    ]
    left = heldout.map(_open, settings, _add_stuff_by_each, things, paste_by, least, heldout.seen)
    acceptances = []
    for fit, n_gt in enumerate(heldout.n_gt):
        parts = [of_image[fit] for of_image in heldout.of_fit(fit, left)]
        stuff, segments = _fit(parts, stuff_ids), SegmentFeatures.join([segments for segments, _ in parts])
        probs = stuff.probabilities(segments.values, segments.category_ids)
        least_stuff = least_probabilities(probs, segments.category_ids, _of(n_gt, stuff_ids))
        least_of_all = least[fit] | least_stuff
        acceptances.append(
            Acceptance(paste_by=paste_by, things=things.models[fit], stuff=stuff, min_probabilities=least_of_all)
        )
    return acceptances


def _of(n_gt: dict[int, int], category_ids: Sequence[int]) -> dict[int, int]:
    return {category_id: n_gt[category_id] for category_id in category_ids}


def _join_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = zip(*pairs, strict=True)
    return np.concatenate(first), np.concatenate(second)


def _fit(parts: Sequence[Labelled], category_ids: list[int]) -> QualityModel:
    segments = SegmentFeatures.join([segments for segments, _ in parts])
    is_right = np.concatenate([right for _, right in parts])
    return fit_quality(segments.values, segments.category_ids, is_right, categories=category_ids)


class _ImageWork:
    """One image's joined instances and averaged semantics, and what is pasted of them."""

    def __init__(self, caches: SplitCaches, settings: FusionSettings) -> None:
        self.dataset, self.settings = caches.dataset, settings
        self.reader = PredictionsReader.open(caches, [settings])

    def read(self, position: int) -> None:
        self.position, self.image = position, self.dataset.images[position]
        found, planes = self.reader.read(self.image.image_id)
        self.joined = join(found, self.settings)
        self.average = average_weighted(planes, categories=self.dataset.categories, settings=self.settings)

    def features(self) -> dict[str, SegmentFeatures]:
        ends = list(self.settings.weight_of_end)
        return thing_features(self.joined, self.average, ends=ends, categories=self.dataset.categories)

    def paste(
        self,
        features: Mapping[str, SegmentFeatures],
        things: QualityModel,
        least: Mapping[int, float],
        paste_by: PasteBy,
    ) -> FusedImage:
        return paste_accepted(
            calibrate_scores(self.joined, features, things),
            self.average,
            paste_by=paste_by,
            least=least,
            categories=self.dataset.categories,
            rules=self.settings.rules,
        )


def _open(
    caches: SplitCaches, settings: FusionSettings, do: Callable[..., Any], *arguments: Any
) -> Callable[[int], Any]:
    """What `do` makes of the image at a position, with these arguments beside it."""
    work = _ImageWork(caches, settings)

    def at(position: int) -> Any:
        work.read(position)
        return do(work, *arguments)

    return at


def _collect(work: _ImageWork) -> tuple[dict[str, SegmentFeatures], np.ndarray]:
    gt_ids = work.dataset.load_segment_ids(work.image)
    joined = work.joined.instances.values()
    best = [pair for one in joined for pair in best_gt_segments(one, gt_ids=gt_ids, gt=work.image.segments)]
    gt = [position if iou > MATCH_IOU else None for position, iou in best]
    return work.features(), found_first(gt, [score for one in joined for score in one.scores.tolist()])


def _paste_by_each(
    work: _ImageWork, things: FittedThings, paste_by: PasteBy, seen: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    all_enter = dict.fromkeys(work.dataset.categories.thing_ids, 0.0)

    def paste(model: QualityModel) -> tuple[np.ndarray, np.ndarray]:
        fused = work.paste(things.features[work.position], model, all_enter, paste_by)
        pasted = [segment for segment in fused.segments if segment.score is not None]
        return np.array([s.score for s in pasted], float), np.array([s.category_id for s in pasted], np.int64)

    fits = zip(things.models, seen[:, work.position], strict=True)
    return [paste(model) if is_seen else None for model, is_seen in fits]


def _add_stuff_by_each(
    work: _ImageWork, things: FittedThings, paste_by: PasteBy, least: Sequence[dict[int, float]], seen: np.ndarray
) -> list[Labelled | None]:
    gt = GtImage.load(work.dataset, work.image)

    def add_stuff(fused: FusedImage) -> Labelled:
        matches = match_segments(
            gt_runs=gt.runs,
            gt=[gt.image.segments],
            predicted_runs=fused.runs,
            predicted=[coco_segments(fused.segments)],
        )
        matched = set(matches.matched_by["segment_id"].tolist())
        stuff = [segment for segment in fused.segments if segment.score is None]
        right = np.array([segment.segment_id in matched for segment in stuff], dtype=bool)
        return stuff_features(fused, work.average, work.dataset.categories), right

    fits = zip(things.models, least, seen[:, work.position], strict=True)
    features = things.features[work.position]
    return [
        add_stuff(work.paste(features, model, of_fit, paste_by)) if is_seen else None for model, of_fit, is_seen in fits
    ]


def _count(
    work: _ImageWork, features: Sequence[Mapping[str, SegmentFeatures]], acceptances: Sequence[Acceptance]
) -> MatchCounts:
    """Features and acceptances are of the images, by position."""
    fused = fuse_by_probability(
        work.joined,
        features[work.position],
        work.average,
        acceptance=acceptances[work.position],
        categories=work.dataset.categories,
        rules=work.settings.rules,
    )
    return GtImage.load(work.dataset, work.image).count(fused)
