"""Stage `score`: PQ, SQ and RQ of every system on the val split, where the fusion loses PQ, and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from antvisionps.core.stage import run_stage
from antvisionps.params.whole import load_params
from antvisionps.pipeline.score import score
from antvisionps.report.pq_table import pq_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, required=True, help="what stage evaluate_heldout wrote")
    parser.add_argument("--calibration", type=Path, required=True, help="what stage calibrate wrote")
    parser.add_argument("--fused", type=Path, required=True, help="folder of all systems' fused maps")
    parser.add_argument("--out", type=Path, required=True, help="folder of metrics to write, replaced whole")
    parser.add_argument("--overlays", type=Path, required=True, help="folder of pictures to write, replaced whole")
    parser.add_argument("--no-error-budget", action="store_true", help="leave the error budget's table empty")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    summary = score(
        params,
        prepared=arguments.prepared,
        predictions=arguments.predictions,
        routing=arguments.routing,
        calibration=arguments.calibration,
        fused=arguments.fused,
        out=arguments.out,
        overlays=arguments.overlays,
        with_budget=not arguments.no_error_budget,
    )
    Console().print(pq_table(summary))


if __name__ == "__main__":
    run_stage(main)
