"""Stage `evaluate_heldout`: mask AP of every end on the held-out split, and from it which end has which category."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.stage import run_stage
from antvisionps.params.whole import load_params
from antvisionps.pipeline.evaluate_heldout import evaluate_heldout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    evaluate_heldout(params, prepared=arguments.prepared, predictions=arguments.predictions, out=arguments.out)


if __name__ == "__main__":
    run_stage(main)
