"""Runs the experiments of tables, each once, and gives their results."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError
from antvisionps.experiments.dvc_experiments import Experiment, ExperimentClone
from antvisionps.experiments.markdown import Result, replace_section, table
from antvisionps.experiments.tables import Row, Table, changes_of
from antvisionps.params.whole import load_params


@dataclass(frozen=True)
class Plan:
    """A table's experiments: for each row one a seed. Rows of the same experiment share it."""

    table: Table
    profile: Path
    experiments: list[tuple[Experiment, ...]]

    def results(self, clone: ExperimentClone) -> list[Result]:
        return [
            Result(row, [one.name for one in of_row], [clone.result_of(one) for one in of_row])
            for row, of_row in zip(self.table.rows, self.experiments, strict=True)
        ]

    def write(self, path: Path, results: Sequence[Result], command: Sequence[str]) -> None:
        """Writes the results as a section of the Markdown file, below the table's title and the profile's name."""
        seeds = len(self.experiments[0])
        of_seeds = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        paragraphs = [
            f"PQ in percent on val of `{self.profile}`, {of_seeds}; {self._budget()}. `dvc exp show` lists the "
            f"experiments. Made by `{shlex.join(command)}`.",
            table(results),
        ]
        if any(row.report for row in self.table.rows):
            paragraphs.append(
                "The report's figures (Hong et al. 2019) are of COCO val2017; on other data or a smaller budget the "
                "difference tells nothing of the method."
            )
        if self.table.left_out:
            paragraphs.append(f"Left out: {'; '.join(self.table.left_out)}.")
        replace_section(path, f"{self.table.title} ({self.profile.stem})", "\n\n".join(paragraphs))

    def _budget(self) -> str:
        """Of each end that a row trains."""
        schedules = {
            end: getattr(of_row[0].params, f"train_{end}").schedule
            for row, of_row in zip(self.table.rows, self.experiments, strict=True)
            for end in row.ends
        }
        return ", ".join(f"{end} {s.iterations} iterations of {s.batch_size} images" for end, s in schedules.items())


def plan_table(
    table: Table, clone: ExperimentClone, *, profile: Path, seeds: Sequence[int], changes: Sequence[str]
) -> Plan:
    """The table's experiments with these seeds (none: the profile's own), all with further changes.

    Raises ParamsError where the changed params are invalid: before anything is run.
    """
    params = load_params(profile)

    @cache
    def describe(label: str, changes_of_row: tuple[str, ...]) -> Experiment:
        return clone.describe(label, profile, [*changes_of_row, *changes])

    return Plan(
        table,
        profile,
        [
            tuple(describe(_label(row, seed), changes_of(row, params, seed=seed)) for seed in seeds or (None,))
            for row in table.rows
        ],
    )


def _label(row: Row, seed: int | None) -> str:
    return row.label if seed is None else f"{row.label}-seed{seed}"


def run_missing(plans: Sequence[Plan], clone: ExperimentClone) -> Iterator[str]:
    """Runs the experiments that have not run yet; yields after each "", or why it failed, and goes on."""
    found = {one.name: (one, plan.profile) for plan in plans for of_row in plan.experiments for one in of_row}
    for number, (experiment, profile) in enumerate(found.values(), start=1):
        if clone.result_of(experiment) is not None:
            continue
        print(f"experiment {number} of {len(found)}: {experiment.name}", file=sys.stderr, flush=True)
        try:
            clone.run(experiment, profile)
            yield ""
        except AntVisionPSError as error:
            yield str(error)
