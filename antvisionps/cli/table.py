"""`antvisionps table …`: the report's tables as DVC experiments, one after the other, and as Markdown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from antvisionps.cli.extras import needs_extra
from antvisionps.core.errors import AntVisionPSError

if TYPE_CHECKING:
    from antvisionps.experiments.dvc_experiments import Experiment, ExperimentClone
    from antvisionps.experiments.report_tables import LeftOut, Table, Trial
    from antvisionps.params.whole import Params


@dataclass(frozen=True)
class Plan:
    """What a profile gives of a table."""

    table: Table
    rows: list[tuple[Trial, Experiment]]
    left_out: list[LeftOut]


DESCRIPTION = (
    "Runs every row of the report's tables on a profile as a DVC experiment, one after the other, in a clone of the "
    "project: your files stay as they are. What has run with the same params and code is not run again; what was "
    "interrupted goes on from its last checkpoint. Their PQ beside the report's is written to OUT after every row."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], project_root: Path) -> None:
    parser = commands.add_parser("table", help="run the report's tables as DVC experiments", description=DESCRIPTION)
    parser.add_argument("numbers", type=int, nargs="+", choices=(1, 2, 3), metavar="NUMBER", help="1, 2 or 3")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="a profile (default: %(default)s)")
    parser.add_argument("--clone", type=Path, default=Path("data/tables"), help="of the project (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="default: docs/tables/PROFILE.md")
    parser.set_defaults(run=lambda args: _table(args, project_root))


def _table(args: argparse.Namespace, project_root: Path) -> None:
    from antvisionps.experiments.dvc_experiments import open_clone
    from antvisionps.params.whole import load_params

    params = load_params(args.params)
    out = args.out or Path("docs/tables") / f"{args.params.stem}.md"
    with needs_extra("pipeline"), open_clone(project_root, args.clone) as clone:
        plans = _plans(clone, params, args.params)
        _write(out, clone, plans, args.params)
        failures = []
        for plan in plans:
            if plan.table.number in args.numbers:
                for failure in _run_rows(plan, clone, args.params):
                    failures += [failure] if failure else []
                    _write(out, clone, plans, args.params)
    print(f"written: {out}")
    if failures:
        raise AntVisionPSError("\n".join(failures))


def _plans(clone: ExperimentClone, params: Params, profile: Path) -> list[Plan]:
    """Every row's params are checked here, before the first row runs."""
    from antvisionps.experiments.report_tables import TABLES, trials

    plans = []
    for table in TABLES:
        found, left_out = trials(table, params)
        rows = [(trial, clone.describe(trial.slug, profile, trial.changes)) for trial in found]
        plans.append(Plan(table, rows, left_out))
    return plans


def _run_rows(plan: Plan, clone: ExperimentClone, profile: Path) -> Iterator[str]:
    """Runs the experiments that have not run yet; yields after each "", or why it failed, and goes on."""
    experiments = {experiment.name: (trial, experiment) for trial, experiment in plan.rows}
    for number, (trial, experiment) in enumerate(experiments.values(), start=1):
        if clone.result_of(experiment) is not None:
            continue
        told = f"table {plan.table.number}, experiment {number} of {len(experiments)}: {experiment.name}"
        print(f"{told} ({trial.network}, {trial.row.variant})", file=sys.stderr, flush=True)
        try:
            clone.run(experiment, profile)
            yield ""
        except AntVisionPSError as error:
            yield str(error)


def _write(out: Path, clone: ExperimentClone, plans: Sequence[Plan], profile: Path) -> None:
    from antvisionps.core.atomic import atomic_file
    from antvisionps.experiments.markdown import Result, document, figures_of, section

    sections = []
    for plan in plans:
        results = []
        for trial, experiment in plan.rows:
            summary = clone.result_of(experiment)
            figures = figures_of(summary, trial.row.system) if summary else None
            results.append(Result(trial.row, trial.network, experiment.name, figures))
        sections.append(section(plan.table, results, plan.left_out))
    command = "make table1 table2 table3" + (f" PROFILE={profile.stem}" if profile.parent.name == "profiles" else "")
    with atomic_file(out) as unfinished:
        unfinished.write_text(document(str(profile), command, sections), encoding="utf-8")
