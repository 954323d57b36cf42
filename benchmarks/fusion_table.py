"""What fusion gains: every end alone, their fusion, and their fusion with the semantics of further ends.

    python -m benchmarks.fusion_table                                  # params.yaml, 3 seeds, into docs/ablations.md
    python -m benchmarks.fusion_table --params profiles/facades.yaml   # real photos
    python -m benchmarks.fusion_table --ends e_ups lwl_htc --added     # without further ends

Each end is trained once a seed; all that comes after is the pipeline's own, plain and with `fuse.calibrated`. A seed of
the table is added, times 100, to the seed that the params give each end's training, so that seed 0 trains the params'
own networks; the data stay. Whatever is finished is kept below --work, so that it may be interrupted.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from antvisionps.params.profiles import read_params
from benchmarks.ablation import comparison_arguments
from benchmarks.trials import (
    FUSION,
    PqOfGroup,
    Trial,
    end_training,
    one_member,
    replace_section,
    run_trials,
    section_of,
    table,
    with_ends,
)

HEADING = "Ends alone and fused"
SEED_STEP = 100
CALIBRATED = "; calibrated"


def main() -> None:
    parser = comparison_arguments(__doc__)
    parser.set_defaults(seeds=[0, 1, 2])
    parser.add_argument("--ends", nargs="+", default=["e_ups", "lwl_htc"], help="scored alone and fused")
    parser.add_argument("--added", nargs="*", help="further ends of a fusion; else all others that the params train")
    arguments = parser.parse_args()
    params = read_params(arguments.params)
    added = trained_ends(params, without=arguments.ends) if arguments.added is None else arguments.added
    for end in (*arguments.ends, *added):
        schedule = params[section_of(end)]["schedule"]
        schedule["iterations"] = arguments.iterations or schedule["iterations"]
    trials = [trial for seed in arguments.seeds for trial in trials_of_seed(params, arguments.ends, added, seed=seed)]
    results = run_trials(trials, work_dir=arguments.work)
    made = table(results, gains=gains(results, ends=arguments.ends))
    budget = "; ".join(
        f"{end} {schedule['iterations']} iterations of {schedule['batch_size']} images"
        for end in (*arguments.ends, *added)
        for schedule in [params[section_of(end)]["schedule"]]
    )
    body = (
        f"PQ in percent on val of `{arguments.params}`, mean ± standard deviation over {len(arguments.seeds)} seeds of "
        f"all trainings; {budget}. The gain is over the better of {' and '.join(arguments.ends)} with the same seed, "
        "calibrated where the fusion is. Made by `python -m benchmarks.fusion_table --params "
        f"{arguments.params}`.\n\n{made}"
    )
    replace_section(arguments.out, f"{HEADING} ({arguments.params.stem})", body)
    print(made)


def trained_ends(params: Mapping[str, Any], *, without: Sequence[str]) -> list[str]:
    """Names of all ends that these params tell how to train, but for some."""
    names = [name.removeprefix("train_") for name in params if name.startswith("train_")]
    return [name for name in names if name not in without]


def trials_of_seed(params: Mapping[str, Any], ends: Sequence[str], added: Sequence[str], *, seed: int) -> list[Trial]:
    """Ends and fusion, then the fusion of all, plain and calibrated; the trainings are the same in all of them."""
    seeded = with_seed(one_member(params), seed=seed)
    trials = []
    for calibrated in (False, True):
        for fused in [ends, [*ends, *added]] if added else [ends]:
            document = with_ends(seeded, fused)
            document["fuse"]["calibrated"] = calibrated
            systems = [FUSION] if len(fused) > len(ends) else [*ends, FUSION]
            rows = {system: row(system, fused, calibrated=calibrated) for system in systems}
            trainings = [end_training(document, end, splits=("heldout", "val")) for end in fused]
            trials.append(Trial(rows, seed, document, tuple(trainings)))
    return trials


def with_seed(params: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """The same params with other seeds of all trainings."""
    document = copy.deepcopy(dict(params))
    for end in trained_ends(document, without=()):
        document[section_of(end)]["seed"] += SEED_STEP * seed
    return document


def row(system: str, ends: Sequence[str], *, calibrated: bool) -> str:
    name = f"fusion of {', '.join(ends)}" if system == FUSION else system
    return name + CALIBRATED if calibrated else name


def gains(results: Mapping[str, Sequence[PqOfGroup]], *, ends: Sequence[str]) -> dict[str, list[float]]:
    """Of every fusion and seed: its PQ less that of the better end."""
    gained = {}
    for name, of_seeds in results.items():
        names = [row(end, ends, calibrated=name.endswith(CALIBRATED)) for end in ends]
        if name not in names:
            better = [max(result["PQ"] for result in alone) for alone in zip(*(results[n] for n in names), strict=True)]
            gained[name] = [result["PQ"] - best for result, best in zip(of_seeds, better, strict=True)]
    return gained


if __name__ == "__main__":
    main()
