"""Stage `prepare`: the data set of params.yaml, checked and split into train, heldout and val."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.stage import run_stage
from antvisionps.params.whole import load_params
from antvisionps.pipeline.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)  # whole: a mistake in any section shows before anything is trained
    prepare(params.prepare, out=arguments.out, workers=params.runtime.workers)


if __name__ == "__main__":
    run_stage(main)
