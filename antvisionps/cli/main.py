"""Panoptic segmentation: scores and fuses what any models predict, and sets up, looks into and tries out a pipeline."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from antvisionps.cli import (
    check,
    convert,
    download,
    experiments,
    export,
    figure,
    findings,
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

PURPOSES = {
    "Score and fuse what any models predict, without a project": ("score", "fuse"),
    "Make a data set": ("download", "convert", "new-profile"),
    "Set up a project": ("doctor", "use", "import", "check"),
    "Look at a run": ("results", "inspect", "figure"),
    "Compare runs": ("experiments", "report"),
    "Try values": ("sweep", "table"),
    "Use what was trained": ("predict", "export"),
}
"""What a user wants → the commands for it."""


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

    doctor = commands.add_parser("doctor", help="what is installed, what is missing, and how to mend it")
    doctor.set_defaults(run=_doctor)
    for command in (
        *(download, convert, new_profile, use, import_end, check, score, fuse, results),
        *(inspect, figure, experiments, report, sweep, table, predict, export),
    ):
        command.add_parser(commands)
    parser.epilog = _grouped({one.dest: str(one.help) for one in commands._choices_actions})
    return parser


def _grouped(help_of: Mapping[str, str]) -> str:
    """A list of the commands below what they are for."""
    width = max(map(len, help_of))
    blocks = [
        "\n".join([f"{purpose}:", *(f"  {name:<{width}}  {help_of[name]}" for name in names)])
        for purpose, names in PURPOSES.items()
    ]
    return "\n\n".join(blocks)


def _doctor(args: argparse.Namespace) -> None:
    from antvisionps.preflight.doctor import examine

    findings.report(examine(Path()))


if __name__ == "__main__":
    main()
