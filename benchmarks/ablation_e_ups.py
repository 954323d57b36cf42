"""Libra's balanced pyramid and the location sensitive header, alone and together, on the same budget: Table 1 in small.

    python -m benchmarks.ablation_e_ups                     # params.yaml, 4 variants x 3 seeds, into docs/ablations.md
    python -m benchmarks.ablation_e_ups --iterations 300    # a larger budget

Every run that is finished is kept below --work, so that it may be interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.trials import e_ups_trial, read_document, replace_section, run_trials, table

VARIANTS = {
    "vanilla": {"balanced_pyramid_level": None, "location_sensitive_header": False},
    "+ BFP": {"balanced_pyramid_level": 2, "location_sensitive_header": False},
    "+ LSH": {"balanced_pyramid_level": None, "location_sensitive_header": True},
    "+ BFP + LSH": {"balanced_pyramid_level": 2, "location_sensitive_header": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, help="instead of the params'")
    parser.add_argument("--work", type=Path, default=Path("data/trials"))
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    arguments = parser.parse_args()
    params = read_document(arguments.params)
    schedule = params["train_e_ups"]["schedule"]
    schedule["iterations"] = arguments.iterations or schedule["iterations"]
    trials = [
        e_ups_trial(name, params, seed=seed, network=changes)
        for seed in arguments.seeds
        for name, changes in VARIANTS.items()
    ]
    results = run_trials(trials, work_dir=arguments.work)
    body = (
        f"PQ in percent on val of `{arguments.params}`, mean ± standard deviation over {len(arguments.seeds)} seeds; "
        f"{schedule['iterations']} iterations of {schedule['batch_size']} images each. Made by "
        f"`make ablation-e-ups`.\n\n{table(results)}"
    )
    replace_section(
        arguments.out, f"E-UPS: balanced pyramid and location sensitive header ({arguments.params.stem})", body
    )
    print(table(results))


if __name__ == "__main__":
    main()
