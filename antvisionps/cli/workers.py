"""The option --workers of commands that need no project."""

import argparse
import os


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one a core)")


def chosen_workers(args: argparse.Namespace) -> int:
    """The number given; of none, or 0, that of the cores that this process may use."""
    workers: int = args.workers
    if workers:
        return workers
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
