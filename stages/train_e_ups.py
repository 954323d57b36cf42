"""Stage `train_e_ups@member`: one network of the E-UPS ensemble on the train split."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.datasets.splits import dataset_fingerprint, open_split
from antvisionps.models.device import select_device
from antvisionps.models.e_ups import build_e_ups
from antvisionps.models.member import train_member
from antvisionps.params import load_params
from antvisionps.stage import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--member", required=True, help="one of train_e_ups.members")
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints while training is unfinished")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    settings = params.train_e_ups
    select_device(params.runtime.device)
    train_member(
        open_split(arguments.prepared, "train"),
        build=build_e_ups,
        end="e_ups",
        network=settings.networks[arguments.member].model_dump(mode="json"),
        **settings.keyword_arguments(),
        checkpoint_interval=params.runtime.checkpoint_interval,
        loader_workers=params.runtime.loader_workers,
        dataset_fingerprint=dataset_fingerprint(arguments.prepared),
        work_dir=arguments.work,
        out_dir=arguments.out,
    )


if __name__ == "__main__":
    run_stage(main)
