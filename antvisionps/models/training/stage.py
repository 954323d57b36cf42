"""The call that the stages that train have in common."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from antvisionps.models.training.kept_weights import Evaluate
from antvisionps.models.training.member import train_member
from antvisionps.models.training.processes import Launcher, stage_processes
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.panoptic.splits import dataset_fingerprint, open_split

Measure = Callable[..., Mapping[str, float]]
"""As `monitor.measure`, which knows the networks' way to predict."""


def train_on_train_split(
    options: argparse.Namespace,
    *,
    settings: Mapping[str, Any],
    measure: Measure,
    device: str,
    cpu_threads: int,
    launcher: Launcher,
    processes: int,
    **member: Any,
) -> None:
    """`train_member` on the options' data and into their folders, in as many processes as are asked for.

    `settings` are TrainingSettings, as plain values; `measure` evaluates on the monitor split, as often as they say.
    """
    typed = TrainingSettings(**settings)
    with stage_processes(launcher=launcher, processes=processes, device=device, cpu_threads=cpu_threads):
        train_member(
            open_split(options.prepared, "train"),
            settings=typed,
            evaluate=_evaluation(options.prepared, typed, measure),
            dataset_fingerprint=dataset_fingerprint(options.prepared),
            work_dir=options.work,
            out_dir=options.out,
            **member,
        )


def _evaluation(prepared: Path, settings: TrainingSettings, measure: Measure) -> Evaluate | None:
    if settings.evaluate_interval is None:
        return None
    return partial(
        measure,
        dataset=open_split(prepared, "monitor"),
        short_sides_px=settings.augmentation["short_sides_px"],
        max_long_side_px=settings.augmentation["max_long_side_px"],
    )
