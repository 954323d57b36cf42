"""The call that the stages that train have in common."""

import argparse
from typing import Any

from antvisionps.models.training.member import train_member
from antvisionps.models.training.processes import Launcher, stage_processes
from antvisionps.panoptic.splits import dataset_fingerprint, open_split


def train_on_train_split(
    options: argparse.Namespace, *, device: str, cpu_threads: int, launcher: Launcher, processes: int, **member: Any
) -> None:
    """`train_member` with this, on the options' data and into their folders, in as many processes as are asked for."""
    with stage_processes(launcher=launcher, processes=processes, device=device, cpu_threads=cpu_threads):
        train_member(
            open_split(options.prepared, "train"),
            dataset_fingerprint=dataset_fingerprint(options.prepared),
            work_dir=options.work,
            out_dir=options.out,
            **member,
        )
