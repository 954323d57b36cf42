"""How networks are built and trained. Nothing here depends on what happens to their predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from antvisionps.core.documents import Fraction, explain_first
from antvisionps.core.errors import ParamsError
from antvisionps.params.runtime import Runtime
from antvisionps.params.section import (
    Boxes,
    InputSidePx,
    Name,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    Seed,
    load_section,
    refuse_repeats,
)

Channels = Annotated[int, Field(ge=1, le=4096)]
Norm = Literal["gn", "syncbn"]
Layers = Annotated[int, Field(ge=1, le=100)]


class Backbone(Section):
    name: str
    weights: str | None
    frozen_stages: Annotated[int, Field(ge=-1, le=4)]
    frozen_norm: bool
    deformable: bool


class Network(Section):
    """What both ends have: a two-stage detector on a feature pyramid."""

    backbone: Backbone
    fpn_channels: Channels
    pyramid_norm: Norm | None
    head_norm: Norm | None
    anchor_scale: PositiveFloat
    train_proposals: Boxes
    rois_per_image: Boxes
    box_fc_channels: Channels
    mask_convs: Layers
    semantic_loss_weight: NonNegativeFloat


class EUpsNetwork(Network):
    image_context: bool
    balanced_pyramid_level: Annotated[int, Field(ge=0, le=4)] | None
    location_sensitive_header: bool
    roi_semantic_loss_weight: NonNegativeFloat
    panoptic_loss_weight: NonNegativeFloat
    unknown_frac: Fraction
    semantic_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=100)]


class LwlHtcNetwork(Network):
    location_sensitive_header: bool
    average_mask_stages: bool
    semantic_level: Annotated[int, Field(ge=0, le=4)]
    semantic_convs: Layers
    semantic_loss_on: Literal["photo", "grid"]
    deformable_semantic_head: Literal["shared", "per_level"] | None
    uncertainty: Literal["task", "term"] | None

    @model_validator(mode="after")
    def _semantics_are_fused_to_a_level_that_can_be(self) -> LwlHtcNetwork:
        if self.semantic_level == 4 and self.deformable_semantic_head is None:
            raise ValueError(
                "semantic_level is 4; expected 0 to 3, or set deformable_semantic_head: shared or per_level"
            )
        return self


class HrnetBackbone(Section):
    width: Literal[18, 30, 32, 40, 44, 48, 64]
    modules: tuple[Layers, Layers, Layers]
    blocks: Layers
    weights: str | None
    frozen_norm: bool


class HrnetAsppNetwork(Section):
    backbone: HrnetBackbone
    aspp_rates: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=100)]
    aspp_channels: Channels
    stage1_channels: Channels
    hard_pixel_frac: Annotated[float, Field(gt=0, le=1)] | None


class Start(Section):
    """What a network's weights begin as; no part of what it is built with."""

    load_from: str | None

    def architecture(self) -> dict[str, Any]:
        """What the network is built with, as plain values."""
        return self.model_dump(mode="json", exclude=set(Start.model_fields))


class EUpsMember(EUpsNetwork, Start):
    """A network of E-UPS that is trained."""


class LwlHtcMember(LwlHtcNetwork, Start):
    """A network of LWL-HTC that is trained."""


class HrnetAsppMember(HrnetAsppNetwork, Start):
    """A network of HRNet-ASPP that is trained."""


class Schedule(Section):
    iterations: Positive
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    warmup_iterations: NonNegative
    policy: Literal["cosine", "step"]
    milestones: tuple[Positive, ...]

    @model_validator(mode="after")
    def _fits_in_the_run(self) -> Schedule:
        if self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations is {self.warmup_iterations}; expected fewer than iterations, {self.iterations}"
            )
        if self.policy == "cosine" and self.milestones:
            raise ValueError("milestones belong to policy step; with cosine give []")
        if list(self.milestones) != sorted(set(self.milestones)) or any(m >= self.iterations for m in self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} have to ascend and lie before iterations")
        return self


class Optimizer(Section):
    kind: Literal["adamw", "sgd"]
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    momentum: Fraction
    backbone_lr_factor: NonNegativeFloat
    bias_lr_factor: NonNegativeFloat
    max_grad_norm: PositiveFloat | None
    autocast: Literal["bfloat16", "float16"] | None
    accumulated_batches: Annotated[int, Field(ge=1, le=10_000)]


class DetectorOptimizer(Optimizer):
    offset_lr_factor: NonNegativeFloat


class LwlHtcOptimizer(DetectorOptimizer):
    log_variance_lr_factor: PositiveFloat


class Memory(Section):
    """How activations are kept, which changes a network by no more than rounding."""

    checkpointed_stages: tuple[Annotated[int, Field(ge=1, le=4)], ...]
    channels_last: bool


class Augmentation(Section):
    short_sides_px: Annotated[tuple[InputSidePx, ...], Field(min_length=1, max_length=1000)]
    max_long_side_px: InputSidePx
    flip: bool
    photometric: Annotated[float, Field(ge=0, lt=1)]


BASE = "base"


def _merge(base: Any, changes: Any) -> Any:
    """The changes, and of tables what they leave as it is in base."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: _merge(base.get(key), value) for key, value in changes.items()}


class Training(Section):
    """Each of the networks that are averaged has settings of its own; the rest is common to all. Beside the network
    `base` the others list what differs from it. Without members an end is not trained."""

    members: tuple[Name, ...]
    networks: dict[Name, Any]
    seed: Seed
    schedule: Schedule
    optimizer: Optimizer
    memory: Memory
    augmentation: Augmentation
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None
    curve_interval: Positive
    evaluate_interval: Positive | None
    keep: Literal["last", "best"]
    snapshots: tuple[Positive, ...]

    @model_validator(mode="wrap")
    @classmethod
    def _others_are_completed(cls, section: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        networks = section.get("networks") if isinstance(section, dict) else None
        if not isinstance(networks, dict):
            return check(section)
        if BASE not in networks:
            raise ValueError(
                f"networks describes only {sorted(networks)}; expected {BASE}, from which the others differ"
            )
        base = networks[BASE]
        check({**section, "members": (), "networks": {BASE: base}})  # so that what is wrong in base is told once
        return check({**section, "networks": {name: _merge(base, own) for name, own in networks.items()}})

    @model_validator(mode="after")
    def _best_is_measured(self) -> Training:
        if self.keep == "best" and self.evaluate_interval is None:
            raise ValueError(
                "keep is best, but evaluate_interval is null, so that nothing is measured; give evaluate_interval a "
                "number of iterations, or set keep to last"
            )
        return self

    @model_validator(mode="after")
    def _snapshots_are_on_the_way(self) -> Training:
        if list(self.snapshots) != sorted(set(self.snapshots)) or any(
            one >= self.schedule.iterations for one in self.snapshots
        ):
            raise ValueError(f"snapshots {list(self.snapshots)} have to ascend and lie before schedule.iterations")
        return self

    @model_validator(mode="after")
    def _members_are_described(self) -> Training:
        refuse_repeats("members", self.members)
        missing = [name for name in self.members if name not in self.networks]
        if missing:
            raise ValueError(f"members lists {missing}, but networks describes only {sorted(self.networks)}")
        return self

    def keyword_arguments(self) -> dict[str, Any]:
        """What training any network of this end is called with, as plain values."""
        return self.model_dump(mode="json", exclude={"members", "networks"})

    def network(self, member: str) -> dict[str, Any]:
        """What the member's network is built with, as plain values. Raises ParamsError on an unknown one."""
        return self._start(member).architecture()

    def load_from(self, member: str) -> str | None:
        """The file that the member's weights start from. Raises ParamsError on an unknown one."""
        return self._start(member).load_from

    def _start(self, member: str) -> Start:
        if member not in self.networks:
            raise ParamsError(f"--member {member}: expected one of networks {sorted(self.networks)}")
        return self.networks[member]


class TrainEUps(Training):
    networks: dict[Name, EUpsMember]
    optimizer: DetectorOptimizer


class TrainLwlHtc(Training):
    networks: dict[Name, LwlHtcMember]
    optimizer: LwlHtcOptimizer


class TrainHrnetAspp(Training):
    networks: dict[Name, HrnetAsppMember]

    @model_validator(mode="after")
    def _batches_can_be_normalised(self) -> TrainHrnetAspp:
        if self.schedule.batch_size < 2:
            raise ValueError(
                f"schedule.batch_size is {self.schedule.batch_size}; expected at least 2: ASPP normalises the pooled "
                "image over the batch"
            )
        return self


NETWORK_OF_END: dict[str, type[Section]] = {
    "e_ups": EUpsNetwork,
    "lwl_htc": LwlHtcNetwork,
    "hrnet_aspp": HrnetAsppNetwork,
}
"""What a network of each end is built with."""


def network_problem(end: str, settings: Mapping[str, Any]) -> str:
    """What is wrong with settings that a trained network of that end is said to have, in words; empty if nothing."""
    try:
        NETWORK_OF_END[end].model_validate_json(json.dumps(settings))
    except ValidationError as error:
        return explain_first(error)
    return ""


TRAINING_OF_END: dict[str, type[Training]] = {"e_ups": TrainEUps, "lwl_htc": TrainLwlHtc, "hrnet_aspp": TrainHrnetAspp}
"""The ends that are trained here, each with its section `train_END`."""


def load_members(path: Path, end: str) -> tuple[str, ...]:
    """Names of the networks that params.yaml trains for the end. Raises ParamsError on an end without a training."""
    if end not in TRAINING_OF_END:
        raise ParamsError(f"--end {end}: expected one of {list(TRAINING_OF_END)}, which are trained here")
    return load_section(path, f"train_{end}", TRAINING_OF_END[end]).members


def load_training(path: Path, end: str, member: str) -> dict[str, Any]:
    """What the training of that network is called with, as plain values. Raises ParamsError on an unknown member."""
    section = load_section(path, f"train_{end}", TRAINING_OF_END[end])
    return {
        "end": end,
        "network": section.network(member),
        "load_from": section.load_from(member),
        "settings": section.keyword_arguments(),
        **load_section(path, "runtime", Runtime).training_arguments(),
    }
