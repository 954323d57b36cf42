"""Stage `report`: the page that shows every number and every image of the val split in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.stage import run_stage
from antvisionps.params.whole import load_params
from antvisionps.pipeline.report import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--models", type=Path, required=True, help="folder of all ends' trained networks")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, required=True, help="what stage evaluate_heldout wrote")
    parser.add_argument("--calibration", type=Path, required=True, help="what stage calibrate wrote")
    parser.add_argument("--fused", type=Path, required=True, help="folder of all systems' fused maps")
    parser.add_argument("--metrics", type=Path, required=True, help="folder that stage score wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    report(
        params,
        prepared=arguments.prepared,
        models=arguments.models,
        predictions=arguments.predictions,
        routing=arguments.routing,
        calibration=arguments.calibration,
        fused=arguments.fused,
        metrics=arguments.metrics,
        out=arguments.out,
    )


if __name__ == "__main__":
    run_stage(main)
