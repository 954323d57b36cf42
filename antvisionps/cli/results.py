"""`antvisionps results …`: the table of panoptic quality, and whether HEAD's is one to compare it with."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("results", help="print the table of panoptic quality that stage score wrote")
    parser.add_argument("summary", type=Path, metavar="metrics/panoptic.json")
    parser.set_defaults(run=_results)


def _results(args: argparse.Namespace) -> None:
    from antvisionps.experiments.baseline import METRICS, foreign_baseline
    from antvisionps.report.pq_table import print_pq
    from antvisionps.report.score_tables import IGNORED_FILE, read_ignored, read_summary

    folder = args.summary.parent
    print_pq(read_summary(args.summary), read_ignored(folder) if (folder / IGNORED_FILE).exists() else "")
    if folder.resolve() == Path(METRICS).resolve() and (warning := foreign_baseline(Path())):
        print(f"warning: {warning}")
