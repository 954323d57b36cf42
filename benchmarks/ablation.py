"""Variants of one end's network on the same data and budget, several seeds each, as a section of docs/ablations.md.

Run by benchmarks/ablation_e_ups.py and benchmarks/ablation_lwl_htc.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antvisionps.params.profiles import read_params
from benchmarks.trials import end_trial, replace_section, run_trials, section_of, table


def comparison_arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every comparison by trials has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, help="instead of the params'")
    parser.add_argument("--work", type=Path, default=Path("data/trials"))
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    return parser


def run_ablation(
    description: str | None, *, end: str, variants: Mapping[str, Mapping[str, Any]], heading: str, command: str
) -> None:
    """Trains each of `variants` (changes of the end's network) with each seed, and writes the table below `heading`."""
    arguments = comparison_arguments(description).parse_args()
    params = read_params(arguments.params)
    schedule = params[section_of(end)]["schedule"]
    schedule["iterations"] = arguments.iterations or schedule["iterations"]
    trials = [
        end_trial(name, params, end=end, seed=seed, network=changes)
        for seed in arguments.seeds
        for name, changes in variants.items()
    ]
    made = table(run_trials(trials, work_dir=arguments.work))
    body = (
        f"PQ in percent on val of `{arguments.params}`, mean ± standard deviation over {len(arguments.seeds)} seeds; "
        f"{schedule['iterations']} iterations of {schedule['batch_size']} images each. Made by `{command}`.\n\n{made}"
    )
    replace_section(arguments.out, f"{heading} ({arguments.params.stem})", body)
    print(made)
