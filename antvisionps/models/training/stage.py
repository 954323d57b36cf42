"""The call that the stages that train have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.model import BaseModel

from antvisionps.models.training.member import train_member
from antvisionps.models.training.processes import stage_processes
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.panoptic.splits import dataset_fingerprint, open_split


def train_on_train_split(
    options: argparse.Namespace,
    *,
    end: str,
    build: Callable[..., BaseModel],
    network: Mapping[str, Any],
    settings: TrainingSettings,
    checkpoint_interval: int,
    loader_workers: int,
    **processes: Any,
) -> None:
    """Trains one network of an end into the options' folder, in as many processes as `stage_processes` is told."""
    with stage_processes(**processes):
        train_member(
            open_split(options.prepared, "train"),
            build=build,
            end=end,
            network=network,
            settings=settings,
            checkpoint_interval=checkpoint_interval,
            loader_workers=loader_workers,
            dataset_fingerprint=dataset_fingerprint(options.prepared),
            work_dir=options.work,
            out_dir=options.out,
        )
