"""How networks predict, and what other tools predicted."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from antvisionps.core.documents import Fraction, Weight
from antvisionps.params.section import Boxes, InputSidePx, Name, Section, full_weights

PredictionKind = Literal["instances", "semantics"]
"""As predictions.split_caches has it."""


class SharedBackbone(Section):
    """Two ends that were trained on one frozen backbone."""

    first: Name
    second: Name


class ImportEnd(Section):
    ends: tuple[Name, ...]


class Predict(Section):
    separate_ends: tuple[Name, ...]
    shared_backbone: tuple[SharedBackbone, ...]
    short_sides_px: Annotated[tuple[InputSidePx, ...], Field(min_length=1, max_length=100)]
    max_long_side_px: InputSidePx
    flip: bool
    max_proposals: Boxes
    min_score: Fraction
    nms_iou: Fraction
    max_instances: Boxes
    member_weights: dict[Name, dict[Name, Weight]]
    snapshots: bool
    soup: bool

    def keyword_arguments(self) -> dict[str, Any]:
        """How one image is predicted, as plain values."""
        of_networks = {"separate_ends", "shared_backbone", "max_proposals", "member_weights", "snapshots", "soup"}
        return self.model_dump(exclude=of_networks)

    def weight_of_member(self, end: str, members: Sequence[str]) -> dict[str, float]:
        """How much each of the end's networks counts."""
        return full_weights(self.member_weights.get(end, {}), members)

    @property
    def num_views(self) -> int:
        """Sizes and mirrorings at which every network sees an image."""
        return len(self.short_sides_px) * (2 if self.flip else 1)
