"""Stage `fuse`: the panoptic maps of the val split by every system, of one end alone or of all ends together."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.stage import run_stage
from antvisionps.params.whole import load_params
from antvisionps.pipeline.fuse import fuse_systems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, required=True, help="what stage evaluate_heldout wrote")
    parser.add_argument("--calibration", type=Path, required=True, help="what stage calibrate wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write, replaced whole: with a folder for each system"
    )
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    fuse_systems(
        params,
        prepared=arguments.prepared,
        predictions=arguments.predictions,
        routing=arguments.routing,
        calibration=arguments.calibration,
        out=arguments.out,
    )


if __name__ == "__main__":
    run_stage(main)
