"""The option --workers of commands that need no project."""

import argparse

from antvisionps.core.cores import usable_cores


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one a core)")


def chosen_workers(args: argparse.Namespace) -> int:
    """The number given; of none, or 0, that of the cores that this process may use."""
    workers: int = args.workers
    return workers or usable_cores()
