"""`antvisionps fuse …`: the predictions of several models, in folders, as panoptic maps."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.cli.workers import add_workers_option, chosen_workers
from antvisionps.core.errors import ParamsError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    description = (
        "Needs no project. A folder is one that antvisionps.Writer wrote, or has the files that docs/your_own_data.md "
        "lists. OUT gets panoptic.json and panoptic/*.png in the COCO panoptic format, segments.parquet and "
        "candidates.parquet: what was rejected, and why. With --calibrate-on thresholds and weights are fitted first, "
        "as stage calibrate fits them, and OUT/calibration.json says what was found."
    )
    fuse = commands.add_parser("fuse", help="panoptic maps from folders of predictions", description=description)
    fuse.add_argument(
        "--pred", action="append", required=True, metavar="[NAME=]DIR", help="a model's folder; once for each model"
    )
    fuse.add_argument(
        "--gt",
        type=Path,
        nargs="+",
        required=True,
        metavar=("JSON", "DIR"),
        help="COCO panoptic JSON of the images, and the folder of its maps, against which labels are checked",
    )
    fuse.add_argument("--out", type=Path, required=True, help="folder to write; a former result is replaced")
    fuse.add_argument("--preset", default="panopticapi", help="panopticapi (default), detectron2, mmdet or upsnet")
    fuse.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of antvisionps.fuse in place of the preset's, as min_score=0.3 or semantic_weights={a: 2}",
    )
    fuse.add_argument(
        "--calibrate-on",
        type=Path,
        nargs=2,
        metavar=("JSON", "DIR"),
        help="truth of held-out images, on which what --set does not say is fitted; --set method=auto needs it",
    )
    fuse.add_argument(
        "--calibrate-pred",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="a model's predictions of the held-out images; once for each model",
    )
    add_workers_option(fuse)
    fuse.set_defaults(run=_fuse)


def _fuse(args: argparse.Namespace) -> None:
    from antvisionps.pipeline.fuse_folders import fuse_folders

    if len(args.gt) > 2:
        raise ParamsError(f"--gt: expected a JSON and the folder of its maps, got {len(args.gt)} values")
    if bool(args.calibrate_on) != bool(args.calibrate_pred):
        raise ParamsError("--calibrate-on and --calibrate-pred: expected both, got one of them")
    folders = _name_folders(args.pred, "--pred")
    images = fuse_folders(
        folders,
        gt=args.gt[0],
        gt_maps=args.gt[1] if len(args.gt) == 2 else None,
        out=args.out,
        calibrate_on=(*args.calibrate_on, _name_folders(args.calibrate_pred, "--calibrate-pred"))
        if args.calibrate_on
        else None,
        workers=chosen_workers(args),
        **{"preset": args.preset} | _parse_settings(args.set),
    )
    print(f"{images} panoptic maps of {' + '.join(folders)}: {args.out / 'panoptic.json'}")


def _name_folders(preds: list[str], option: str) -> dict[str, Path]:
    """Name of the model → folder, in the order given."""
    folders: dict[str, Path] = {}
    for pred in preds:
        name, equals, path = pred.partition("=")
        if not equals or Path(pred).exists():
            name, path = "", pred
        name = name or Path(path).resolve().name
        if name in folders:
            raise ParamsError(f"{option}: two models are called {name}; name them, as {option} other={path}")
        folders[name] = Path(path)
    return folders


def _parse_settings(texts: list[str]) -> dict[str, object]:
    """Values are YAML, as those of `dvc exp run -S`."""
    from antvisionps.params.section import parse

    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParamsError(f"--set {text}: expected NAME=VALUE, as min_score=0.3")
        settings[name] = parse(f"--set {name}", value)
    return settings
