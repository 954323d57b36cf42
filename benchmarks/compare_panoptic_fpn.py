"""E-UPS beside mmdet's own Panoptic FPN: same backbone, pictures, iterations, optimiser and heuristic.

    python -m benchmarks.compare_panoptic_fpn                                     # params.yaml's data
    python -m benchmarks.compare_panoptic_fpn --params profiles/facades.yaml      # real photos

Adds its table to docs/ablations.md. Every run that is finished is kept below --work, so that it may be interrupted.
"""

from __future__ import annotations

from antvisionps.params.profiles import read_params
from benchmarks.ablation import comparison_arguments
from benchmarks.stock_panoptic_fpn import END
from benchmarks.trials import (
    EndTraining,
    Trial,
    end_trial,
    replace_section,
    run_trials,
    single_end,
    table,
)

STOCK_COMMANDS = (
    (
        "-m", "benchmarks.stock_panoptic_fpn", "--params", "{params}", "--prepared", "{prepared}", "--work", "{work}",
        "--models", "{models}", "--predictions", "{predictions}",
    ),
)  # fmt: skip


def main() -> None:
    arguments = comparison_arguments(__doc__).parse_args()
    params = read_params(arguments.params)
    schedule = params["train_e_ups"]["schedule"]
    schedule["iterations"] = arguments.iterations or schedule["iterations"]
    trials = []
    for seed in arguments.seeds:
        stock = single_end(params, end=END, seed=seed, section="train_e_ups")
        training = EndTraining(END, "train_e_ups", STOCK_COMMANDS)
        trials.append(Trial({END: "mmdet Panoptic FPN"}, seed, stock, (training,)))
        trials.append(end_trial("E-UPS", params, end="e_ups", seed=seed, network={}))
    results = run_trials(trials, work_dir=arguments.work)
    backbone = params["train_e_ups"]["networks"][params["train_e_ups"]["members"][0]]["backbone"]["name"]
    body = (
        f"PQ in percent on val of `{arguments.params}`, mean ± standard deviation over {len(arguments.seeds)} seeds; "
        f"both with {backbone}, {schedule['iterations']} iterations of {schedule['batch_size']} images, the same "
        f"optimiser, augmentation and panoptic heuristic. Made by `python -m benchmarks.compare_panoptic_fpn --params "
        f"{arguments.params}`.\n\n{table(results)}"
    )
    replace_section(arguments.out, f"E-UPS and mmdet's Panoptic FPN ({arguments.params.stem})", body)
    print(table(results))


if __name__ == "__main__":
    main()
