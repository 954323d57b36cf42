"""`antvisionps table …`: networks and fusions side by side, by DVC experiments, as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError
from antvisionps.core.extras import needs_extra
from antvisionps.experiments.options import add_options, option_words

DESCRIPTION = (
    "Runs every row of a table on a profile as a DVC experiment, one after the other, in a clone of the project: your "
    "files stay as they are. What has run with the same params and code is not run again; what was interrupted goes on "
    "from its last checkpoint. Their PQ is written to OUT after every experiment."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("table", help="run the tables as DVC experiments", description=DESCRIPTION)
    parser.add_argument(
        "names",
        nargs="+",
        choices=("1", "2", "3", "fusion"),
        metavar="TABLE",
        help="the report's 1, 2 or 3, or fusion: ends alone and fused, plain and calibrated",
    )
    add_options(parser)
    parser.add_argument("--out", type=Path, help="default: docs/tables/PROFILE.md")
    parser.set_defaults(run=_table)


def _table(args: argparse.Namespace) -> None:
    from antvisionps.experiments.dvc_experiments import open_clone
    from antvisionps.experiments.run_tables import plan_table, run_missing
    from antvisionps.experiments.tables import TABLES
    from antvisionps.params.whole import load_params

    params = load_params(args.params)
    out = args.out or Path("docs/tables") / f"{args.params.stem}.md"
    to = ["--out", str(args.out)] if args.out else []
    options = {"profile": args.params, "seeds": args.seeds, "changes": args.set_param}
    with needs_extra("pipeline"), open_clone(Path(), args.clone) as clone:
        plans = {name: plan_table(TABLES[name](params), clone, **options) for name in args.names}

        def write() -> None:
            for name, plan in plans.items():
                plan.write(out, plan.results(clone), ["antvisionps", "table", name, *option_words(args), *to])

        write()
        failures = []
        for failure in run_missing(list(plans.values()), clone):
            failures += [failure] if failure else []
            write()
    print(f"written: {out}")
    if failures:
        raise AntVisionPSError("\n".join(failures))
