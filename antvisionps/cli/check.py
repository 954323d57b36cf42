"""`antvisionps check …`: a dry run of some params, before a long one."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.core.extras import needs_extra

DESCRIPTION = (
    "A dry run before a long one. Every network that the params train is built at its full width, takes a training "
    "step and predicts a picture; data, pretrained weights and the disk are looked at; disk, memory and time of the "
    "run are estimated. On a GPU the steps have the run's own picture size, so that memory and time are measured. "
    "Downloads nothing, writes nothing. Exit status 1 where the run would fail."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="a dry run of some params, before a long one", description=DESCRIPTION)
    parser.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="default: %(default)s")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> None:
    from antvisionps.cli.doctor import report
    from antvisionps.params.whole import load_params
    from antvisionps.report.tables import print_table

    params = load_params(args.params)
    with needs_extra("models"):
        from antvisionps.preflight.dry_run import dry_run
    estimates, findings = dry_run(params, disk=Path())
    rows = [{"what": one.quantity, "how much": one.amount, "how that is known": one.source} for one in estimates]
    print_table(f"What {args.params} needs", rows)
    report(findings)
