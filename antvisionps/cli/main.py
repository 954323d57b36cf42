"""Panoptic segmentation: scores and fuses what any models predict, and sets up, looks into and tries out a pipeline."""

import argparse
from collections.abc import Sequence
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

PROJECT_ROOT = Path()
"""Commands run from the project's root, as DVC's do."""

PURPOSES = {
    "begin": ("doctor", "download", "convert", "new-profile", "use", "import", "check"),
    "score and fuse what any models predict, without a project": ("score", "fuse"),
    "look at a run": ("results", "inspect", "figure"),
    "compare runs": ("experiments", "report"),
    "try values": ("sweep", "table"),
    "use what was trained": ("predict", "export"),
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
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{', '.join(names)}: {purpose}" for purpose, names in PURPOSES.items()),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what is installed, what is missing, and how to mend it")
    doctor.set_defaults(run=_doctor)
    download.add_parser(commands)
    convert.add_parser(commands)
    new_profile.add_parser(commands, PROJECT_ROOT)
    use.add_parser(commands, PROJECT_ROOT)
    import_end.add_parser(commands, PROJECT_ROOT)
    check.add_parser(commands, PROJECT_ROOT)
    score.add_parser(commands)
    fuse.add_parser(commands)
    results.add_parser(commands, PROJECT_ROOT)
    inspect.add_parser(commands)
    figure.add_parser(commands)
    experiments.add_parser(commands, PROJECT_ROOT)
    report.add_parser(commands, PROJECT_ROOT)
    sweep.add_parser(commands, PROJECT_ROOT)
    table.add_parser(commands, PROJECT_ROOT)
    predict.add_parser(commands)
    export.add_parser(commands, PROJECT_ROOT)
    return parser


def _doctor(args: argparse.Namespace) -> None:
    from antvisionps.preflight.doctor import examine

    findings.report(examine(PROJECT_ROOT))


if __name__ == "__main__":
    main()
