"""Panoptic segmentation: scores and fuses what any models predict, and sets up, looks into and tries out a pipeline."""

import argparse
from collections.abc import Sequence

from antvisionps.cli import (
    check,
    convert,
    doctor,
    download,
    experiments,
    export,
    figure,
    fuse,
    import_end,
    inspect,
    new_profile,
    predict,
    report,
    results,
    score,
    sweep,
    table,
    use,
)
from antvisionps.core.stage import run_stage

COMMANDS = {
    "Score and fuse what any models predict, without a project": (score, fuse),
    "Make a data set": (download, convert, new_profile),
    "Set up a project": (doctor, use, import_end, check),
    "Look at a run": (results, inspect, figure),
    "Compare runs": (experiments, report),
    "Try values": (sweep, table),
    "Use what was trained": (predict, export),
}
"""What a user wants → the modules of the commands for it."""


def main(argv: Sequence[str] | None = None) -> None:
    run_stage(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> None:
    args = _parser().parse_args(argv)
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="antvisionps",
        usage="antvisionps COMMAND …, or antvisionps COMMAND --help",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog="antvisionps", help=argparse.SUPPRESS)
    listed = commands._choices_actions
    of_purpose = {}
    for purpose, modules in COMMANDS.items():
        for command in modules:
            command.add_parser(commands)
        of_purpose[purpose] = listed[-len(modules) :]
    width = max(len(one.dest) for one in listed)
    parser.epilog = "\n\n".join(
        "\n".join([f"{purpose}:", *(f"  {one.dest:<{width}}  {one.help}" for one in of_it)])
        for purpose, of_it in of_purpose.items()
    )
    return parser


if __name__ == "__main__":
    main()
