"""params.yaml as typed, frozen models; the only reader of that file.

One model per section, and a section per stage. No field has a default: a tunable stands in params.yaml and nowhere
else. Unknown keys, missing keys, wrong types and values out of range are refused, each with its place in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from antvisionps.errors import ParamsError

FUSION_SYSTEM = "fusion"
"""Name of the system that takes all ends; every other system is the end it is named after."""

TRAINED_ENDS = ("e_ups", "lwl_htc", "hrnet_aspp")
"""Ends with a stage of their own; the tables of `predict` and `fuse` may describe them where `ends` has them not."""

SEMANTIC_ENDS = ("hrnet_aspp",)
"""Those of them that have no instances."""

ONLY_MEMBER = "base"
"""Name of the network of an end that is no ensemble."""

PANOPTIC_INSTANCES = "panoptic"
"""Of `prepare.instances`: things are what the panoptic maps show of them."""

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


class CityscapesFolder(Section):
    root: str


class Prepare(Section):
    source: Literal["scenes", "coco_panoptic", "cityscapes"]
    seed: Seed
    heldout_images: Positive
    scenes: Scenes | None
    coco_panoptic: CocoPanopticFolder | None
    cityscapes: CityscapesFolder | None
    instances: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _source_is_described(self) -> Prepare:
        if getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so prepare.{self.source} must be filled in, not null")
        if self.instances != PANOPTIC_INSTANCES and self.source != "coco_panoptic":
            raise ValueError(
                f"instances is {self.instances} and source {self.source}; expected {PANOPTIC_INSTANCES}, as only "
                "coco_panoptic has a JSON of instances beside the maps"
            )
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
    average_mask_stages: bool
    semantic_level: Annotated[int, Field(ge=0, le=4)]
    semantic_convs: Positive
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
    modules: tuple[Positive, Positive, Positive]
    blocks: Positive
    weights: str | None
    frozen_norm: bool


class HrnetAsppNetwork(Section):
    backbone: HrnetBackbone
    aspp_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]
    aspp_channels: Positive
    stage1_channels: Positive
    hard_pixel_frac: Annotated[float, Field(gt=0, le=1)] | None


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


class Ensemble(Training):
    """Each of the networks that are averaged has settings of its own; the rest is common to all."""

    members: tuple[Name, ...]
    networks: dict[Name, Any]

    @model_validator(mode="after")
    def _members_are_described(self) -> Ensemble:
        _refuse_repeats("members", self.members)
        missing = [name for name in self.members if name not in self.networks]
        if missing:
            raise ValueError(f"members lists {missing}, but networks describes only {sorted(self.networks)}")
        return self

    def network(self, member: str) -> dict[str, Any]:
        """What the member's network is built with, as plain values. Raises ParamsError on an unknown one."""
        if member not in self.networks:
            raise ParamsError(f"--member {member}: expected one of networks {sorted(self.networks)}")
        return self.networks[member].model_dump(mode="json")


class TrainEUps(Ensemble):
    networks: dict[Name, EUpsNetwork]

    @model_validator(mode="after")
    def _has_members(self) -> TrainEUps:
        _refuse_empty("members", self.members)
        return self


class TrainLwlHtc(Training):
    network: LwlHtcNetwork


class TrainHrnetAspp(Ensemble):
    """Without members, this end is not trained."""

    networks: dict[Name, HrnetAsppNetwork]

    @model_validator(mode="after")
    def _batches_can_be_normalised(self) -> TrainHrnetAspp:
        if self.schedule.batch_size < 2:
            raise ValueError(
                f"schedule.batch_size is {self.schedule.batch_size}; expected at least 2: ASPP normalises the pooled "
                "image over the batch"
            )
        return self


class SharedBackbone(Section):
    """Two ends that were trained on one frozen backbone."""

    first: Name
    second: Name


class ImportEnd(Section):
    ends: tuple[Name, ...]


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
    routing: Literal["best_ap", "union", "single"]
    min_joined_iou: Fraction
    instance_weights: dict[Name, NonNegativeFloat]
    preset: Literal["panopticapi", "detectron2", "mmdet", "upsnet"] | None
    min_score: Fraction
    max_overlap_frac: Fraction
    min_stuff_area_px: NonNegative
    max_nms_iou: Fraction | None
    min_stuff_confidence: Fraction
    min_scores: dict[str | int, Fraction]
    order: Literal["score", "learned"]
    semantic_average: Literal["probabilities", "log_probabilities"]
    semantic_weights: dict[Name, NonNegativeFloat]
    calibrated: bool

    def keyword_arguments(self, system: str) -> dict[str, Any]:
        """How a system is fused, as plain values."""
        return self.model_dump(exclude={"systems", "method"}) | {"method": self.method[system]}


class Score(Section):
    overlay_images: NonNegative
    bootstrap_samples: Positive
    seed: Seed


class Report(Section):
    photo_long_side_px: Positive
    thumbnail_long_side_px: Positive
    photo_quality: Annotated[int, Field(ge=1, le=100)]


class Runtime(Section):
    """How to run. No stage lists this section among its params, and after predict it never changes what comes out."""

    device: Literal["auto", "cpu", "cuda"]
    cpu_threads: Positive
    launcher: Literal["none", "pytorch", "slurm"]
    processes: Positive
    workers: Positive
    backend: Literal["processes", "dask", "ray"]
    cluster: Annotated[str, Field(min_length=1)] | None
    loader_workers: NonNegative
    checkpoint_interval: Positive

    @model_validator(mode="after")
    def _processes_are_started(self) -> Runtime:
        if self.launcher == "none" and self.processes > 1:
            raise ValueError(f"processes is {self.processes}, but launcher none starts one; set launcher to pytorch")
        return self

    def training_arguments(self) -> dict[str, Any]:
        """What a training is called with of it, as plain values."""
        names = {"device", "cpu_threads", "launcher", "processes", "loader_workers", "checkpoint_interval"}
        return self.model_dump(include=names)

    def process_arguments(self) -> dict[str, Any]:
        """How the processes of a prediction start and on what they run, as plain values."""
        return self.model_dump(include={"device", "cpu_threads", "launcher", "processes"})

    def worker_arguments(self) -> dict[str, Any]:
        """What the work on images is shared by, as plain values."""
        return self.model_dump(include={"workers", "backend", "cluster"})

    @model_validator(mode="after")
    def _cluster_has_a_backend(self) -> Runtime:
        if self.cluster is not None and self.backend == "processes":
            raise ValueError(
                f"cluster is {self.cluster}, but backend is processes, which uses none; name dask or ray, or set "
                "cluster to null"
            )
        return self


class Params(Section):
    ends: tuple[Name, ...]
    prepare: Prepare
    train_e_ups: TrainEUps
    train_lwl_htc: TrainLwlHtc
    train_hrnet_aspp: TrainHrnetAspp
    import_end: ImportEnd
    predict: Predict
    evaluate_heldout: EvaluateHeldout
    calibrate: Calibrate
    fuse: Fuse
    score: Score
    report: Report
    runtime: Runtime

    @property
    def all_ends(self) -> tuple[str, ...]:
        """Whatever fills the cache: the ends that are predicted here, then the imported ones."""
        return (*self.ends, *self.import_end.ends)

    def refuse_unknown_end(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end that is predicted here."""
        if name not in self.ends:
            raise ParamsError(f"--end {name}: expected one of ends {list(self.ends)}")

    def refuse_unknown_system(self, name: str) -> None:
        """Raises ParamsError unless the name is that of an end or of the fusion, and has a method."""
        if name not in (*self.all_ends, FUSION_SYSTEM):
            raise ParamsError(f"--system {name}: expected {FUSION_SYSTEM} or one of ends {list(self.all_ends)}")
        if name not in self.fuse.method:
            raise ParamsError(f"--system {name}: fuse.method names no method for it; add one, or name another system")

    @model_validator(mode="after")
    def _names_fit(self) -> Params:
        for place, names in (("ends", self.all_ends), ("fuse.systems", self.fuse.systems)):
            _refuse_empty(place, names)
            _refuse_repeats(place, names)
        if FUSION_SYSTEM in self.all_ends:
            raise ValueError(f"an end cannot be called {FUSION_SYSTEM}: that is the system of all ends")
        if "hrnet_aspp" in self.ends and not self.train_hrnet_aspp.members:
            raise ValueError(
                "ends lists hrnet_aspp, but train_hrnet_aspp.members is empty; list there what to train, as [base]"
            )
        if trained := [name for name in self.import_end.ends if name in TRAINED_ENDS]:
            raise ValueError(
                f"import_end.ends lists {trained[0]}, the name of an end that is trained here; choose another"
            )
        self._every_end_is_predicted_once()
        self._member_weights_fit()
        self._fusion_fits()
        return self

    def _every_end_is_predicted_once(self) -> None:
        pairs = self.predict.shared_backbone
        predicted = [*self.predict.separate_ends, *(end for pair in pairs for end in (pair.first, pair.second))]
        if sorted(predicted) != sorted(self.ends):
            raise ValueError(
                f"predict.separate_ends and predict.shared_backbone list {predicted}; expected each of ends "
                f"{list(self.ends)} once, in one of the two"
            )

    def _member_weights_fit(self) -> None:
        _refuse_unfit_keys("predict.member_weights", self.predict.member_weights, self.ends)
        for end in self.ends:
            weights = self.predict.member_weights[end]
            members: tuple[str, ...] = tuple(weights)
            if end == "e_ups":
                members = self.train_e_ups.members
            elif end == "lwl_htc":
                members = (ONLY_MEMBER,)
            elif end == "hrnet_aspp":
                members = self.train_hrnet_aspp.members
            place = f"predict.member_weights.{end}"
            if set(weights) != set(members):
                raise ValueError(f"{place} has {sorted(weights)}; expected a weight for each of {sorted(members)}")
            _refuse_zeros(place, weights.values())

    def _fusion_fits(self) -> None:
        systems = (*self.all_ends, FUSION_SYSTEM)
        for name in self.fuse.systems:
            if name not in systems:
                raise ValueError(
                    f"fuse.systems lists {name}; expected {FUSION_SYSTEM} or one of ends {list(self.all_ends)}"
                )
            if name in SEMANTIC_ENDS:
                raise ValueError(
                    f"fuse.systems lists {name}, which has semantics but no instances and so makes no panoptic map of "
                    f"its own; take it off the list: {FUSION_SYSTEM} averages its semantics in"
                )
        _refuse_unfit_keys("fuse.method", self.fuse.method, (FUSION_SYSTEM, *self.fuse.systems), known=systems)
        with_instances = tuple(end for end in self.all_ends if end not in SEMANTIC_ENDS)
        _refuse_unfit_keys("fuse.instance_weights", self.fuse.instance_weights, with_instances)
        if with_instances:
            _refuse_zeros("fuse.instance_weights", [self.fuse.instance_weights[end] for end in with_instances])
        _refuse_unfit_keys("fuse.semantic_weights", self.fuse.semantic_weights, self.all_ends)
        _refuse_zeros("fuse.semantic_weights", [self.fuse.semantic_weights[end] for end in self.all_ends])


def _refuse_empty(place: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError(f"{place} is empty; name at least one")


def _refuse_repeats(place: str, names: tuple[str, ...]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{place} lists {name} twice")


def _refuse_unfit_keys(
    place: str, table: Mapping[str, object], needed: tuple[str, ...], known: tuple[str, ...] = ()
) -> None:
    """An entry for each that is needed. One for an end that is switched off waits for it; other names are mistakes."""
    if not set(needed) <= set(table):
        raise ValueError(f"{place} has {sorted(table)}; expected an entry for each of {sorted(set(needed))}")
    allowed = {*needed, *known, *TRAINED_ENDS}
    if not set(table) <= allowed:
        raise ValueError(f"{place} has {sorted(set(table) - allowed)}; expected only names of {sorted(allowed)}")


def _refuse_zeros(place: str, weights: Iterable[float]) -> None:
    if not any(weights):
        raise ValueError(f"{place} are all zero; give at least one a positive weight")


def load_params(path: Path, *, changes: Mapping[str, object] | None = None) -> Params:
    """The checked parameters, with `changes` (dotted key → value) in place of what the file says.

    Raises ParamsError that names the file, the key, and what was expected and got.
    """
    try:
        # YAML 1.2 as DVC reads it: `1e-4` is a number and `no` a string, unlike in PyYAML.
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's root, where params.yaml is") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    for key, value in (changes or {}).items():
        _change(path, document, key, value)
    try:
        return Params.model_validate(_lists_to_tuples(document))
    except ValidationError as error:
        raise ParamsError(_explain(path, error)) from error


def _change(path: Path, document: Any, key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        document = document.get(section) if isinstance(document, dict) else None
    if not isinstance(document, dict) or name not in document:
        raise ParamsError(f"{path}: {key}: no such key; mend its spelling")
    document[name] = value


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
