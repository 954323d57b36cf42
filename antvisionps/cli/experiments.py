"""`antvisionps experiments`: DVC's experiments in a table that fits a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.errors import AntVisionPSError

WIDTH = 120
DESCRIPTION = (
    "A line for the workspace, for HEAD and for each DVC experiment: the params that it changed, its PQ, and how far "
    "it lies above the commit that it began on."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("experiments", help="list DVC's experiments with their PQ", description=DESCRIPTION)
    parser.add_argument("--system", help="an end, or fusion (default: the last of fuse.systems)")
    parser.add_argument("--json", action="store_true", help="as JSON, unrounded")
    parser.set_defaults(run=_experiments)


def _experiments(args: argparse.Namespace) -> None:
    from antvisionps.experiments.listing import experiment_rows
    from antvisionps.report.pq_table import GROUP_OF_PQ
    from antvisionps.report.tables import print_json, print_table

    rows = experiment_rows(Path(), system=args.system)
    if args.system and all(row["PQ"] is None for row in rows):
        raise AntVisionPSError(
            f"--system {args.system}: no run has such a system; metrics/panoptic.json names those of one"
        )
    if args.json:
        print_json(rows)
        return
    formats = {f"Δ {name}": "+.1f" for name in GROUP_OF_PQ}
    print_table("Experiments, percent (Th: things, St: stuff; Δ: to the commit begun on)", rows, formats, width=WIDTH)
