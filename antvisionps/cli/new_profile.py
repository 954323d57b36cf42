"""`antvisionps new-profile …`: a profile for a data set in the COCO panoptic format."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import ParamsError

DESCRIPTION = (
    "Looks at the annotations of train and val, and writes a profile that holds only what differs from the built-in "
    "run, each value with its reason: paths, sizes, anchors, proposals, batches, thresholds. Opens no photo."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("new-profile", help="a profile for a data set of yours", description=DESCRIPTION)
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder, in the COCO panoptic format")
    places: dict[str, Any] = {"nargs": 3, "type": Path, "metavar": ("JSON", "PNGS", "PHOTOS")}
    parser.add_argument("--train", help="its files (default: found below ROOT by their names)", **places)
    parser.add_argument("--val", help="likewise", **places)
    parser.add_argument("--out", type=Path, metavar="profiles/NAME.yaml", help="default: profiles/ROOT's name.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite a profile that is there")
    parser.set_defaults(run=_new_profile)


def _new_profile(args: argparse.Namespace) -> None:
    from antvisionps.datasets.conversion.panoptic import PanopticFiles
    from antvisionps.params.whole import load_params
    from antvisionps.preflight.new_profile import profile_text
    from antvisionps.preflight.survey import find_splits

    profiles = Path("profiles")
    out = args.out or profiles / f"{_name(args.root)}.yaml"
    if not (profiles / "built_in.yaml").exists():
        raise ParamsError(f"{profiles}: no built_in.yaml, which a profile extends; run from the project's root")
    if out.exists() and not args.force:
        raise ParamsError(f"{out}: there already; overwrite it with --force, or name another with --out")
    given = {"train": args.train, "val": args.val}
    missing = [name for name, places in given.items() if not places]
    found_places = find_splits(args.root, missing) if missing else {}
    splits = {name: PanopticFiles(*places) if places else found_places[name] for name, places in given.items()}
    text, found = profile_text(splits, root=args.root, out=out, profiles=profiles)
    with atomic_file(out) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        load_params(unfinished)
    print(f"{out}: {found.train} + {found.val} photos, {len(found.categories)} categories; read it, it has the reasons")
    print(f"next: antvisionps use {out}, then dvc repro")


def _name(root: Path) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", root.resolve().name.lower()).strip("_") or "mine"
