"""Options that every comparison by experiments has."""

import argparse
from pathlib import Path

PARAMS = Path("params.yaml")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=PARAMS, help="a profile (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="of the trainings (default: the profile's)")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="a change of all rows, as of dvc"
    )
    parser.add_argument("--clone", type=Path, default=Path("data/tables"), help="of the project (default: %(default)s)")


def option_words(args: argparse.Namespace) -> list[str]:
    """The options that change a result, as they are given on the command line."""
    words = ["--params", str(args.params)] if args.params != PARAMS else []
    if args.seeds:
        words += ["--seeds", *map(str, args.seeds)]
    return words + [word for change in args.set_param for word in ("-S", change)]
