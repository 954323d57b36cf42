"""params.yaml as typed, frozen models; the only reader of that file.

One model per section, and a section per stage. No field has a default: a tunable stands in params.yaml and nowhere
else. Unknown keys, missing keys, wrong types and values out of range are refused, each with its place in the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from antvisionps.errors import ParamsError

FUSION_SYSTEM = "fusion"
"""Name of the system that takes all ends; every other system is the end it is named after."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Scenes(Section):
    """The built-in data set."""

    train_images: Positive
    val_images: Positive
    height_px: Annotated[int, Field(ge=64, le=1024)]
    width_px: Annotated[int, Field(ge=64, le=1024)]


class CocoPanopticSplit(Section):
    """One split on disk, relative to `root`: NAME.json, the folder of its PNGs, the folder of its photos."""

    annotations: str
    panoptic_dir: str
    images_dir: str


class CocoPanopticFolder(Section):
    root: str
    train: CocoPanopticSplit
    val: CocoPanopticSplit


class Prepare(Section):
    source: Literal["scenes", "coco_panoptic"]
    seed: Seed
    heldout_images: Positive
    scenes: Scenes | None
    coco_panoptic: CocoPanopticFolder | None

    @model_validator(mode="after")
    def _source_is_described(self) -> Prepare:
        if getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so prepare.{self.source} must be filled in, not null")
        if self.scenes is not None and self.heldout_images >= self.scenes.train_images:
            raise ValueError("heldout_images must be below scenes.train_images: they are taken out of train")
        return self


class Backbone(Section):
    name: str
    weights: str | None
    frozen_stages: Annotated[int, Field(ge=-1, le=4)]
    frozen_norm: bool
    deformable: bool


class Network(Section):
    """What both ends have: a two-stage detector on a feature pyramid."""

    backbone: Backbone
    fpn_channels: Positive
    anchor_scale: PositiveFloat
    train_proposals: Positive
    rois_per_image: Positive
    box_fc_channels: Positive
    mask_convs: Positive
    semantic_loss_weight: NonNegativeFloat


class EUpsNetwork(Network):
    image_context: bool
    balanced_pyramid_level: Annotated[int, Field(ge=0, le=4)] | None
    location_sensitive_header: bool
    roi_semantic_loss_weight: NonNegativeFloat
    panoptic_loss_weight: NonNegativeFloat
    unknown_frac: Fraction
    semantic_channels: Annotated[tuple[Positive, ...], Field(min_length=1)]


class LwlHtcNetwork(Network):
    location_sensitive_header: bool
    semantic_level: Annotated[int, Field(ge=0, le=4)]
    semantic_convs: Positive
    deformable_semantic_head: Literal["shared", "per_level"] | None
    uncertainty: Literal["task", "term"] | None


class Schedule(Section):
    iterations: Positive
    batch_size: Positive
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


class Memory(Section):
    """How a batch fits: the first two change no result, the others do."""

    checkpointed_stages: tuple[Annotated[int, Field(ge=1, le=4)], ...]
    channels_last: bool
    autocast: Literal["bfloat16", "float16"] | None
    accumulated_batches: Positive


class Augmentation(Section):
    short_sides_px: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    max_long_side_px: Annotated[int, Field(ge=32)]
    flip: bool
    photometric: Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    seed: Seed
    schedule: Schedule
    optimizer: Optimizer
    memory: Memory
    augmentation: Augmentation
    curve_interval: Positive

    def keyword_arguments(self) -> dict[str, Any]:
        """What training any network of this end is called with, as plain values."""
        return self.model_dump(mode="json", include=set(Training.model_fields))


class TrainEUps(Training):
    """Each member of the ensemble has a network of its own; the rest is common to all."""

    members: tuple[Name, ...]
    networks: dict[Name, EUpsNetwork]

    @model_validator(mode="after")
    def _members_are_described(self) -> TrainEUps:
        _refuse_repeats("members", self.members)
        missing = [name for name in self.members if name not in self.networks]
        if missing:
            raise ValueError(f"members lists {missing}, but networks describes only {sorted(self.networks)}")
        return self


class TrainLwlHtc(Training):
    network: LwlHtcNetwork


class SharedBackbone(Section):
    """Two ends that were trained on one frozen backbone."""

    first: Name
    second: Name


class Predict(Section):
    separate_ends: tuple[Name, ...]
    shared_backbone: tuple[SharedBackbone, ...]
    short_sides_px: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(min_length=1)]
    max_long_side_px: Annotated[int, Field(ge=32)]
    flip: bool
    max_proposals: Positive
    min_score: Fraction
    nms_iou: Fraction
    max_instances: Positive
    member_weights: dict[Name, dict[Name, NonNegativeFloat]]

    def keyword_arguments(self) -> dict[str, Any]:
        """How one image is predicted, as plain values."""
        return self.model_dump(exclude={"separate_ends", "shared_backbone", "max_proposals", "member_weights"})

    @property
    def num_views(self) -> int:
        """Sizes and mirrorings at which every network sees an image."""
        return len(self.short_sides_px) * (2 if self.flip else 1)


class EvaluateHeldout(Section):
    min_heldout_instances: NonNegative
    bootstrap_samples: Positive
    seed: Seed


class Calibrate(Section):
    """Where the search begins, apart from fuse: a change there must not call for a new calibration."""

    min_heldout_instances: NonNegative
    min_score: Fraction
    max_overlap_frac: Fraction
    min_stuff_area_px: NonNegative


class Fuse(Section):
    systems: tuple[Name, ...]
    method: dict[Name, Literal["heuristic", "panoptic_head"]]
    routing: Literal["best_ap", "single"]
    preset: Literal["panopticapi", "detectron2", "mmdet", "upsnet"] | None
    min_score: Fraction
    max_overlap_frac: Fraction
    min_stuff_area_px: NonNegative
    max_nms_iou: Fraction | None
    min_stuff_confidence: Fraction
    semantic_weights: dict[Name, NonNegativeFloat]
    calibrated: bool

    def keyword_arguments(self, system: str) -> dict[str, Any]:
        """How a system is fused, as plain values."""
        return self.model_dump(exclude={"systems", "method", "calibrated"}) | {"method": self.method[system]}


class Score(Section):
    overlay_images: NonNegative
    bootstrap_samples: Positive
    seed: Seed


class Runtime(Section):
    """How to run, never what comes out: no stage lists this section among its params."""

    device: Literal["auto", "cpu", "cuda"]
    workers: Positive
    loader_workers: NonNegative
    checkpoint_interval: Positive


class Params(Section):
    ends: tuple[Name, ...]
    prepare: Prepare
    train_e_ups: TrainEUps
    train_lwl_htc: TrainLwlHtc
    predict: Predict
    evaluate_heldout: EvaluateHeldout
    calibrate: Calibrate
    fuse: Fuse
    score: Score
    runtime: Runtime

    def refuse_unknown_system(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end or of the fusion."""
        if name not in (*self.ends, FUSION_SYSTEM):
            raise ParamsError(f"--system {name}: expected {FUSION_SYSTEM} or one of ends {list(self.ends)}")

    @model_validator(mode="after")
    def _names_fit(self) -> Params:
        _refuse_repeats("ends", self.ends)
        _refuse_repeats("fuse.systems", self.fuse.systems)
        pairs = self.predict.shared_backbone
        predicted = [*self.predict.separate_ends, *(end for pair in pairs for end in (pair.first, pair.second))]
        if sorted(predicted) != sorted(self.ends):
            raise ValueError(
                f"predict.separate_ends and predict.shared_backbone list {predicted}; expected each of ends "
                f"{list(self.ends)} once, in one of the two"
            )
        if set(self.predict.member_weights) != set(self.ends):
            raise ValueError(
                f"predict.member_weights describes {sorted(self.predict.member_weights)}; expected {sorted(self.ends)}"
            )
        for end, weights in self.predict.member_weights.items():
            members = self.train_e_ups.members if end == "e_ups" else tuple(weights)
            _refuse_weights_of_others(f"predict.member_weights.{end}", weights, members)
        _refuse_weights_of_others("fuse.semantic_weights", self.fuse.semantic_weights, self.ends)
        if FUSION_SYSTEM in self.ends:
            raise ValueError(f"an end cannot be called {FUSION_SYSTEM}: that is the system of all ends")
        if set(self.fuse.method) != {*self.ends, FUSION_SYSTEM}:
            raise ValueError(
                f"fuse.method has {sorted(self.fuse.method)}; expected a method for {FUSION_SYSTEM} and each of "
                f"{sorted(self.ends)}"
            )
        for name in self.fuse.systems:
            if name not in (*self.ends, FUSION_SYSTEM):
                raise ValueError(
                    f"fuse.systems lists {name}; expected {FUSION_SYSTEM} or one of ends {list(self.ends)}"
                )
        return self


def _refuse_repeats(place: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError(f"{place} is empty; name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{place} lists {name} twice")


def _refuse_weights_of_others(place: str, weights: dict[str, float], names: tuple[str, ...]) -> None:
    if set(weights) != set(names):
        raise ValueError(f"{place} has {sorted(weights)}; expected a weight for each of {sorted(names)}")
    if sum(weights.values()) <= 0:
        raise ValueError(f"{place} are all zero; give at least one a positive weight")


def load_params(path: Path) -> Params:
    """The checked parameters. Raises ParamsError that names the file, the key, and what was expected and got."""
    try:
        # YAML 1.2 as DVC reads it: `1e-4` is a number and `no` a string, unlike in PyYAML.
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's root, where params.yaml is") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    try:
        return Params.model_validate(_lists_to_tuples(document))
    except ValidationError as error:
        raise ParamsError(_explain(path, error)) from error


def _lists_to_tuples(node: object) -> object:
    if isinstance(node, dict):
        return {key: _lists_to_tuples(value) for key, value in node.items()}
    if isinstance(node, list):
        return tuple(_lists_to_tuples(value) for value in node)
    return node


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key; remove it or mend its spelling"
        got = f", got {problem['input']!r}" if problem["type"] not in ("missing", "value_error") else ""
        lines.append(": ".join(part for part in (str(path), place, message) if part) + got)
    return "\n".join(lines)
