"""`antvisionps import …`: the predictions of another tool as an end of the project."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = (
    "Copies the folders to data/imports/NAME, adds NAME to import_end.ends of params.yaml, and reads a part of each "
    "split at once, so that a file that does not fit is known before a run. A folder has the files that "
    "docs/your_own_data.md lists, or is one that antvisionps.Writer wrote. Needs what `dvc repro prepare` writes."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("import", help="make predictions of another tool an end", description=DESCRIPTION)
    parser.add_argument("end", metavar="NAME", help="what to call it")
    for split in ("val", "heldout"):
        described = f"its predictions of the images of data/prepared/{split}.json"
        parser.add_argument(f"--{split}", type=Path, metavar="DIR", help=described)
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    from antvisionps.pipeline.add_end import add_end
    from antvisionps.predictions.split_caches import PREDICTED_SPLITS

    given = {split: folder for split in PREDICTED_SPLITS if (folder := getattr(args, split)) is not None}
    for line in add_end(args.end, given):
        print(line)
