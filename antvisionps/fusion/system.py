"""One way from the predictions of all ends to a panoptic map: what stage `fuse` does to every image, and `calibrate`
tries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from antvisionps.categories import CategorySet
from antvisionps.fusion.heuristic import FusedImage, HeuristicRules, fuse_image
from antvisionps.fusion.panoptic_head import fuse_image_by_head
from antvisionps.fusion.semantic_average import SemanticAverage, average_semantics
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

Method = Literal["heuristic", "panoptic_head"]


@dataclass(frozen=True)
class FusionSettings:
    """`weight_of_end`: whose predictions, and how much their semantics count · `end_of_category`: whose instances of
    each category are taken; None: everybody's."""

    method: Method
    rules: HeuristicRules
    weight_of_end: Mapping[str, float]
    end_of_category: Mapping[int, str] | None


def fuse_predictions(
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    *,
    categories: CategorySet,
    settings: FusionSettings,
) -> FusedImage:
    """The panoptic map of one image from end → instances and end → semantics."""
    average = average_weighted(semantics, settings.weight_of_end, categories=categories)
    ends = "+".join(end for end in semantics if settings.weight_of_end[end] > 0)
    return fuse_average(instances, average, semantic_end=ends, categories=categories, settings=settings)


def average_weighted(
    semantics: Mapping[str, ImageSemantics], weight_of_end: Mapping[str, float], *, categories: CategorySet
) -> SemanticAverage:
    """The average of end → semantics by end → weight, which may name more ends."""
    weights = [weight_of_end[end] for end in semantics]
    return average_semantics(list(semantics.values()), weights=weights, categories=categories)


def fuse_average(
    instances: Mapping[str, ImageInstances],
    average: SemanticAverage,
    *,
    semantic_end: str,
    categories: CategorySet,
    settings: FusionSettings,
) -> FusedImage:
    """The same, from semantics that are averaged already."""
    if settings.method == "panoptic_head":
        return fuse_image_by_head(
            instances,
            average,
            categories=categories,
            end_of_category=settings.end_of_category,
            semantic_end=semantic_end,
            rules=settings.rules,
        )
    return fuse_image(
        instances,
        average.class_map(),
        categories=categories,
        end_of_category=settings.end_of_category,
        semantic_end=semantic_end,
        rules=settings.rules,
        confidence=average.confidence() if settings.rules.min_stuff_confidence > 0 else None,
    )
