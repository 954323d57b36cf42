"""What happens to cached predictions: routing, calibration, fusion, scores, the page."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from antvisionps.core.documents import Fraction, Weight
from antvisionps.params.section import Name, NonNegative, Samples, Section, Seed, SidePx, full_weights

Method = Literal["heuristic", "panoptic_head", "auto"]

InstanceEnsemble = Literal["best_of_class", "best_overall", "union"]
"""Whose instances: each category's best end's · the one end's that is better overall · all ends', joined."""


class EvaluateHeldout(Section):
    min_heldout_instances: NonNegative
    bootstrap_samples: Samples
    seed: Seed


class Calibrate(Section):
    """Where the search begins, apart from fuse: a change there must not call for a new calibration."""

    min_heldout_instances: NonNegative
    min_score: Fraction
    max_overlap_frac: Fraction
    min_stuff_area_px: NonNegative
    temperature: bool


class FusionChoices(Section):
    """What stage calibrate takes from section fuse as it is, and does not search."""

    systems: tuple[Name, ...]
    method: Method
    methods: dict[Name, Method]
    instance_ensemble: InstanceEnsemble
    min_joined_iou: Fraction
    instance_weights: dict[Name, Weight]
    semantic_average: Literal["probabilities", "log_probabilities"]

    def method_of(self, system: str) -> Method:
        return self.methods.get(system, self.method)

    def instance_weight_of_end(self, ends: Iterable[str]) -> dict[str, float]:
        return full_weights(self.instance_weights, ends)


class Fuse(FusionChoices):
    preset: Literal["panopticapi", "detectron2", "mmdet", "upsnet"] | None
    min_score: Fraction
    max_overlap_frac: Fraction
    min_stuff_area_px: NonNegative
    max_nms_iou: Fraction | None
    min_stuff_confidence: Fraction
    min_scores: dict[str | int, Fraction]
    order: Literal["score", "learned"]
    semantic_weights: dict[Name, Weight]
    calibrated: bool
    doubt: bool

    @model_validator(mode="after")
    def _dvc_can_sort(self) -> Self:
        if len({type(key) for key in self.min_scores}) > 1:
            raise ValueError(
                'min_scores has names and numbers as keys, which DVC cannot sort; write the numbers in quotes, as "7"'
            )
        return self

    def semantic_weight_of_end(self, ends: Iterable[str]) -> dict[str, float]:
        return full_weights(self.semantic_weights, ends)

    def thresholds(self) -> dict[str, Any]:
        """Keyword arguments of HeuristicRules."""
        names = {"min_score", "max_overlap_frac", "min_stuff_area_px", "max_nms_iou", "min_stuff_confidence"}
        return self.model_dump(include=names)


class Score(Section):
    overlay_images: NonNegative
    bootstrap_samples: Samples
    seed: Seed
    boundary_pq: bool
    slices: str | None


class Report(Section):
    photo_long_side_px: SidePx
    thumbnail_long_side_px: SidePx
    photo_quality: Annotated[int, Field(ge=1, le=100)]
