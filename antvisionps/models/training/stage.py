"""What the stages that train have in common: their options, and the call that trains."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.model import BaseModel

from antvisionps.models.training.member import train_member
from antvisionps.models.training.processes import Launcher, stage_processes
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.panoptic.splits import dataset_fingerprint, open_split


def training_options(description: str | None) -> argparse.ArgumentParser:
    """The parser of what every such stage is told."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints while training is unfinished")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    return parser


def train_on_train_split(
    options: argparse.Namespace,
    *,
    end: str,
    build: Callable[..., BaseModel],
    network: Mapping[str, Any],
    settings: TrainingSettings,
    device: str,
    cpu_threads: int,
    launcher: Launcher,
    processes: int,
    checkpoint_interval: int,
    loader_workers: int,
) -> None:
    """Trains one network of an end into the options' folder, in as many processes as are asked for."""
    with stage_processes(launcher=launcher, processes=processes, device=device, cpu_threads=cpu_threads):
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
