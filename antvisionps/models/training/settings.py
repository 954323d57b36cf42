"""What a training follows: the sections of the params with the same names, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class Schedule(TypedDict):
    """`batch_size` counts the images that all processes load together; `milestones` belong to policy step."""

    iterations: int
    batch_size: int
    warmup_iterations: int
    policy: Literal["cosine", "step"]
    milestones: Sequence[int]


class Augmentation(TypedDict):
    """The short side of a batch is drawn from `short_sides_px`, the long side stays within `max_long_side_px`, and half
    the samples are mirrored if `flip`. `photometric` is the largest relative change of brightness, contrast and
    saturation.
    """

    short_sides_px: Sequence[int]
    max_long_side_px: int
    flip: bool
    photometric: float


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """`optimizer` is `optim_wrapper`'s, `memory` how a batch fits; a point of the curves averages `curve_interval`
    iterations.

    `ema_momentum` is the part of the new weights that an iteration mixes into their average, which is kept then; None
    keeps the weights themselves. Every `evaluate_interval` iterations (None: never) those weights are measured, and
    `keep` says whether the last or the best measured are kept. The weights after each of the iterations `snapshots` are
    kept beside them.
    """

    seed: int
    schedule: Schedule
    optimizer: Mapping[str, Any]
    memory: Mapping[str, Any]
    augmentation: Augmentation
    ema_momentum: float | None
    curve_interval: int
    evaluate_interval: int | None
    keep: Literal["last", "best"]
    snapshots: Sequence[int]
