"""What stage `calibrate` fits on held-out images, and which values it tries."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PlainSerializer

from antvisionps.core.documents import Document, Fraction, Weight, read_document
from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import HeuristicRules, choose_candidates
from antvisionps.fusion.system import FusionSettings
from antvisionps.panoptic.categories import CategorySet
from antvisionps.predictions.instances import ImageInstances

MIN_SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
MAX_OVERLAP_FRACS = (0.3, 0.5, 0.7)
STUFF_AREA_FACTORS = (0.25, 0.5, 1.0, 2.0)
STUFF_CONFIDENCES = (0.0, 0.4, 0.5, 0.6)
WEIGHT_STEPS = 5

MIN_COVERED_FRAC = 0.1
"""Part of the smaller of two instances that must be shared before the pair says anything of which lies on top."""

Crop = tuple[int, int, np.ndarray]
"""See `MaskRuns.crop`."""


Pairs = Annotated[frozenset[tuple[int, int]], PlainSerializer(sorted)]

RULES = ("min_score", "min_scores", "max_overlap_frac", "min_stuff_area_px", "min_stuff_confidence", "on_top")
"""What of the rules is fitted; NMS is not."""


class Calibration(Document):
    """Values of RULES and of the semantic weights. `learned_on_top`: the pairs that held-out images show, of which
    `on_top` has none if they do not raise PQ · `heldout_pq`: held-out, as fractions of 1, before ("plain") and after
    ("calibrated"), and "cross_validated", where no image is fused with what was fitted on it."""

    min_score: Fraction
    min_scores: dict[int, Fraction]
    max_overlap_frac: Fraction
    min_stuff_area_px: Annotated[int, Field(ge=0, lt=2**31)]
    min_stuff_confidence: Fraction
    on_top: Pairs
    learned_on_top: Pairs
    semantic_weights: dict[str, Weight]
    heldout_pq: dict[Literal["plain", "calibrated", "cross_validated"], Fraction | None]

    def apply(self, settings: FusionSettings) -> FusionSettings:
        """The settings with what was fitted in place of theirs."""
        rules = HeuristicRules(**{name: getattr(self, name) for name in RULES})
        return replace(settings, rules=rules, weight_of_end=self.semantic_weights)


def read_calibration(path: Path, *, categories: CategorySet, ends: Iterable[str]) -> Calibration:
    """What stage calibrate wrote of a system. Raises CacheError unless it is of these things and ends."""
    remedy = "run `dvc repro calibrate`"
    document = read_document(path, Calibration, what="calibration", remedy=remedy)
    if problem := _misfit(document, categories, set(ends)):
        raise CacheError(f"{path}: {problem}; {remedy}")
    return document


def _misfit(document: Calibration, categories: CategorySet, ends: set[str]) -> str:
    """What does not fit to the things and ends, or contradicts itself; empty where nothing does."""
    if set(document.semantic_weights) != ends:
        return f"fitted for other ends, {sorted(document.semantic_weights)}"
    if not any(document.semantic_weights.values()):
        return "semantic_weights are all zero"
    for place, pairs in (("on_top", document.on_top), ("learned_on_top", document.learned_on_top)):
        for upper, lower in sorted(pairs):
            if (lower, upper) in pairs:
                return f"{place} has category {upper} both above and below {lower}"
    named = {*document.min_scores, *itertools.chain(*document.on_top, *document.learned_on_top)}
    if strangers := sorted(named - categories.thing_ids):
        return f"category {strangers[0]} is no thing of this data set"
    return ""


def try_weights(settings: FusionSettings) -> Iterator[FusionSettings]:
    """Weights of every two ends in steps of a fifth; an end alone never gets all. One end has nothing to weigh."""
    ends = list(settings.weight_of_end)
    shares = itertools.product(range(1, WEIGHT_STEPS), repeat=len(ends))
    for share in shares:
        if len(ends) > 1 and sum(share) == WEIGHT_STEPS:
            yield replace(settings, weight_of_end=dict(zip(ends, map(float, share), strict=True)))


def try_thresholds(settings: FusionSettings) -> Iterator[FusionSettings]:
    for min_score, max_overlap_frac in itertools.product(MIN_SCORES, MAX_OVERLAP_FRACS):
        yield _with(settings, min_score=min_score, max_overlap_frac=max_overlap_frac)


def try_stuff(settings: FusionSettings) -> Iterator[FusionSettings]:
    area = settings.rules.min_stuff_area_px
    confidences = STUFF_CONFIDENCES if settings.method == "heuristic" else (0.0,)
    for factor, confidence in itertools.product(STUFF_AREA_FACTORS, confidences):
        yield _with(settings, min_stuff_area_px=round(area * factor), min_stuff_confidence=confidence)


def choose_min_scores(
    pq_of_class: Mapping[float, Mapping[int, float]], *, n_gt: Mapping[int, int], min_instances: int, default: float
) -> dict[int, float]:
    """category_id → the min_score of the best PQ of that class, where it is better than with the default one.

    `pq_of_class` is min_score → category_id → PQ of the class with that min_score for all. Classes with fewer than
    min_instances true ones keep the default: their best threshold is chance.
    """
    chosen = {}
    for category_id, gt in n_gt.items():
        of_score = {score: of_class.get(category_id, 0.0) for score, of_class in pq_of_class.items()}
        best = max(of_score, key=lambda score: (of_score[score], -abs(score - default)))
        if gt >= min_instances and of_score[best] > of_score.get(default, 0.0):
            chosen[category_id] = best
    return chosen


def choose_on_top(wins: np.ndarray, category_ids: Sequence[int], *, min_overlaps: int) -> frozenset[tuple[int, int]]:
    """Pairs (upper, lower) of categories of which the upper was the visible one in most of at least min_overlaps.

    wins (K, K): how often an instance of the row's category was what is seen where it overlaps one of the column's.
    """
    is_upper = (wins > wins.T) & (wins + wins.T >= min_overlaps)
    return frozenset((category_ids[upper], category_ids[lower]) for upper, lower in np.argwhere(is_upper).tolist())


def count_visible(
    instances: Mapping[str, ImageInstances],
    category_map: np.ndarray,
    *,
    categories: CategorySet,
    settings: FusionSettings,
) -> np.ndarray:
    """(K, K) int64 over the things: how often an instance of the row's category is what the truth shows where it
    overlaps one of the column's, in one image.

    category_map (H, W) are the true category ids. Only pairs of different categories of which the smaller is covered by
    MIN_COVERED_FRAC or more can tell.
    """
    candidates, _ = choose_candidates(instances, end_of_category=settings.end_of_category, rules=settings.rules)
    columns_first = np.ascontiguousarray(category_map.T)
    wins = np.zeros((len(categories.things),) * 2, dtype=np.int64)
    crops = [candidate.source.runs.crop(candidate.index) for candidate in candidates]
    for first, second in itertools.combinations(range(len(candidates)), 2):
        one, other = candidates[first], candidates[second]
        if one.category_id == other.category_id:
            continue
        shown = _shown_in_overlap(crops[first], crops[second], columns_first)
        if len(shown) < max(1.0, MIN_COVERED_FRAC * min(one.area_px, other.area_px)):
            continue
        votes = [int(np.count_nonzero(shown == candidate.category_id)) for candidate in (one, other)]
        if votes[0] != votes[1]:
            upper, lower = (one, other) if votes[0] > votes[1] else (other, one)
            wins[categories.class_index(upper.category_id), categories.class_index(lower.category_id)] += 1
    return wins


def _shown_in_overlap(first: Crop, second: Crop, columns_first: np.ndarray) -> np.ndarray:
    """(n,) values of the map under the pixels that two masks share."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right = min(first[0] + first[2].shape[0], second[0] + second[2].shape[0])
    bottom = min(first[1] + first[2].shape[1], second[1] + second[2].shape[1])
    if right <= left or bottom <= top:
        return columns_first[:0, 0]
    one, other = (mask[left - x : right - x, top - y : bottom - y] for x, y, mask in (first, second))
    return columns_first[left:right, top:bottom][one & other]


def _with(settings: FusionSettings, **changes: Any) -> FusionSettings:
    rules: HeuristicRules = replace(settings.rules, **changes)
    return replace(settings, rules=rules)
