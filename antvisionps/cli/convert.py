"""`antvisionps convert …`: data sets of other formats in the COCO panoptic format, and back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antvisionps.cli.workers import add_workers_option, chosen_workers

if TYPE_CHECKING:
    from antvisionps.datasets.conversion.writing import SplitCounts
    from antvisionps.pipeline.convert import Converted

DESCRIPTION = (
    "OUT gets panoptic_train.json, the folder panoptic_train of its PNGs and images_train, a link to the photos, and "
    "the same of val. Things lie over stuff, larger things below smaller ones; what nothing covers is void. Without "
    "--val a part of the images becomes val."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="other formats as COCO panoptic, and back", description=DESCRIPTION)
    formats = convert.add_subparsers(required=True, metavar="FORMAT", dest="format")

    coco = _add(formats, "coco", "COCO instances JSONs, also CVAT's, Label Studio's and Roboflow's exports")
    _add_places(coco, annotations="JSON", photos="PHOTOS")
    coco.add_argument("--semantic", metavar="DIR", help="PNGs of category ids, whose stuff lies at the bottom")
    coco.add_argument("--val-semantic", metavar="DIR", help="those of val (default: --semantic)")
    text = "take crowds as single instances (CVAT's painted masks)"
    coco.add_argument("--no-crowds", action="store_false", dest="keeps_crowds", help=text)

    _add_places(_add(formats, "labelme", "a folder of photos, each with Labelme's JSON beside it"), folder="FOLDER")

    yolo = _add(formats, "yolo", "a YOLO segmentation folder: data.yaml, images and labels")
    yolo.add_argument("data", metavar="data.yaml")

    text = "label PNGs: labels, label · 1000 + number of the instance, or --instances beside them"
    pngs = _add(formats, "pngs", text)
    _add_places(pngs, labels="LABELS", photos="PHOTOS")
    pngs.add_argument("--instances", metavar="DIR", help="PNGs of instance numbers, 0 outside of instances")
    pngs.add_argument("--val-instances", metavar="DIR", help="those of val (default: --instances)")

    panoptic = _add(formats, "panoptic", "a COCO panoptic data set of one JSON, to take val out of it")
    _add_places(panoptic, annotations="JSON", maps="PNGS", photos="PHOTOS")

    vistas = _add(formats, "vistas", "Mapillary Vistas in its own layout")
    vistas.add_argument("root", metavar="ROOT", help="the folder of training and validation")
    vistas.add_argument("--version", metavar="v1.2|v2.0", help="of the annotations (default: the newest there)")

    text = "COCO panoptic as a COCO instances JSON and semantic PNGs"
    to_coco = formats.add_parser("to-coco", help=text, description=f"{text}: OUT/instances.json, OUT/semantic/*.png.")
    to_coco.add_argument("annotations", metavar="JSON")
    to_coco.add_argument("maps", metavar="PNGS")
    _add_out(to_coco)


def _add(formats: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    """What is not given has no value, so that the function's own default holds."""
    description = f"From {text}. {DESCRIPTION}"
    parser = formats.add_parser(name, help=text, description=description, argument_default=argparse.SUPPRESS)
    parser.add_argument("--stuff", nargs="+", metavar="NAME", help="categories that are stuff; others: things")
    parser.add_argument(
        "--categories", metavar="FILE", required=name == "pngs", help="YAML or JSON, a list of {id, name, isthing}"
    )
    parser.add_argument("--val-frac", type=float, metavar="PART", help="of the images without --val (default: a fifth)")
    _add_out(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser, **names: str) -> None:
    for name, metavar in names.items():
        parser.add_argument(name, metavar=metavar)
    metavars = tuple(names.values())
    several: dict[str, Any] = {} if len(names) == 1 else {"nargs": len(names)}
    parser.add_argument("--val", metavar=metavars if several else metavars[0], help="the same of val", **several)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a former result is replaced")
    add_workers_option(parser)
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    """Options and places have the names of the parameters of the format's function."""
    from antvisionps.pipeline import convert

    given = vars(args) | {"workers": chosen_workers(args)}
    name = given.pop("format").replace("-", "_")
    del given["run"]
    if name == "to_coco":
        images, instances = convert.to_coco(**given)
        where = f"{args.out / 'instances.json'}, {args.out / 'semantic'}"
        print(f"{instances} instances and {images} semantic PNGs: {where}")
    else:
        _report(getattr(convert, name)(**given))


def _report(converted: Converted) -> None:
    from antvisionps.report.tables import print_table

    out, categories, counts = converted.folder, converted.categories, converted.counts
    rows = [
        {"id": one.category_id, "category": one.name, "kind": "thing" if one.is_thing else "stuff"}
        | _of_category(one.category_id, counts)
        for one in sorted(categories.categories, key=lambda one: one.category_id)
    ]
    print_table(f"Segments of {out}", rows)
    for name, found in counts.items():
        print(f"{name}: {_sentence(found)}")
    if not categories.stuff:
        print("every category is a thing: no network here trains on that; name stuff with --stuff, as --stuff sky road")
    print(f"next: antvisionps new-profile --root {out}; where that was done before: dvc repro --force prepare")


def _of_category(category_id: int, counts: Mapping[str, SplitCounts]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, found in counts.items():
        columns[name] = found.segments[category_id]
        if found.crowds.total():
            columns[f"{name} crowds"] = found.crowds[category_id]
        columns[f"{name} %"] = 100 * found.segment_px[category_id] / max(1, found.pixels)
    return columns


def _sentence(found: SplitCounts) -> str:
    parts: Sequence[str] = [
        f"{found.images} images",
        f"{sum(found.segments.values())} segments",
        f"{100 * found.void_px / max(1, found.pixels):.1f} % void",
        f"{100 * found.overlap_px / max(1, found.pixels):.2f} % of the pixels claimed by more than one thing",
    ]
    if found.hidden:
        parts = [*parts, f"{found.hidden} things wholly behind others left out"]
    if found.without_segments:
        parts = [*parts, f"{found.without_segments} images without a segment"]
    return ", ".join(parts)
