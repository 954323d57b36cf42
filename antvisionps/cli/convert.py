"""`antvisionps convert …`: data sets of other formats in the COCO panoptic format, and back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antvisionps.datasets.conversion.source import SourceSet, Wanted
    from antvisionps.datasets.conversion.writing import SplitCounts

VAL_FRAC, SEED = 0.2, 2019
"""The part of the images that is val where none is given, and what they are drawn by."""

DESCRIPTION = (
    "OUT gets panoptic_train.json, the folder panoptic_train of its PNGs and images_train, a link to the photos, and "
    "the same of val. Things lie over stuff, larger things below smaller ones; what nothing covers is void. Without "
    "--val a part of the images becomes val."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="other formats as COCO panoptic, and back", description=DESCRIPTION)
    formats = convert.add_subparsers(required=True, metavar="FORMAT")
    _add_coco(formats)
    _add_labelme(formats)
    _add_yolo(formats)
    _add_pngs(formats)
    _add_panoptic(formats)
    _add_vistas(formats)
    _add_to_coco(formats)


def _add_coco(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    coco = _add(formats, "coco", "COCO instances JSONs, also CVAT's, Label Studio's and Roboflow's exports", _coco)
    _add_places(coco, ("JSON", "PHOTOS"))
    coco.add_argument(
        "--semantic", type=Path, metavar="DIR", help="PNGs of category ids, whose stuff lies at the bottom"
    )
    coco.add_argument("--val-semantic", type=Path, metavar="DIR", help="those of val (default: --semantic)")
    coco.add_argument("--no-crowds", action="store_true", help="take crowds as single instances (CVAT's painted masks)")


def _add_labelme(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    labelme = _add(formats, "labelme", "a folder of photos, each with Labelme's JSON beside it", _labelme)
    _add_places(labelme, ("FOLDER",))


def _add_yolo(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    yolo = _add(formats, "yolo", "a YOLO segmentation folder: data.yaml, images and labels", _yolo)
    yolo.add_argument("data", type=Path, metavar="data.yaml")


def _add_pngs(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "label PNGs: labels, label · 1000 + number of the instance, or --instances beside them"
    pngs = _add(formats, "pngs", text, _pngs)
    _add_places(pngs, ("LABELS", "PHOTOS"))
    pngs.add_argument("--instances", type=Path, metavar="DIR", help="PNGs of instance numbers, 0 outside of instances")
    pngs.add_argument("--val-instances", type=Path, metavar="DIR", help="those of val (default: --instances)")


def _add_panoptic(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    panoptic = _add(formats, "panoptic", "a COCO panoptic data set of one JSON, to take val out of it", _panoptic)
    _add_places(panoptic, ("JSON", "PNGS", "PHOTOS"))


def _add_vistas(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    vistas = _add(formats, "vistas", "Mapillary Vistas in its own layout", _vistas)
    vistas.add_argument("root", type=Path, metavar="ROOT", help="the folder of training and validation")
    vistas.add_argument("--version", metavar="v1.2|v2.0", help="of the annotations (default: the newest there)")


def _add_to_coco(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "COCO panoptic as a COCO instances JSON and semantic PNGs"
    to_coco = formats.add_parser("to-coco", help=text, description=f"{text}: OUT/instances.json, OUT/semantic/*.png.")
    to_coco.add_argument("annotations", type=Path, metavar="JSON")
    to_coco.add_argument("maps", type=Path, metavar="PNGS")
    _add_out(to_coco)
    to_coco.set_defaults(run=_to_coco)


def _add(
    formats: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, read: Any
) -> argparse.ArgumentParser:
    parser = formats.add_parser(name, help=text, description=f"From {text}. {DESCRIPTION}")
    parser.add_argument(
        "--stuff", nargs="+", default=[], metavar="NAME", help="categories that are stuff; others: things"
    )
    parser.add_argument(
        "--categories",
        type=Path,
        metavar="FILE",
        required=name == "pngs",
        help="YAML or JSON, a list of {id, name, isthing}",
    )
    parser.add_argument(
        "--val-frac", type=float, default=VAL_FRAC, metavar="PART", help="of the images without --val (%(default)s)"
    )
    _add_out(parser)
    parser.set_defaults(run=lambda args: _convert(args, read))
    return parser


def _add_places(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    for name in names:
        parser.add_argument(name.lower(), type=Path, metavar=name)
    parser.add_argument("--val", type=Path, nargs=len(names), metavar=names, help="the same of val")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a former result is replaced")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")


def _convert(args: argparse.Namespace, read: Any) -> None:
    from antvisionps.datasets.conversion.source import Wanted, split_off_val
    from antvisionps.datasets.conversion.writing import write_data_set

    wanted = Wanted(stuff=args.stuff)
    if args.categories:
        wanted = Wanted.of(_read_yaml(args.categories), args.stuff, where=str(args.categories))
    source = read(args, wanted)
    source = split_off_val(source, val_frac=args.val_frac, seed=SEED)
    _report(args.out, source, write_data_set(args.out, source, workers=_workers(args)))


def _read_yaml(path: Path) -> Any:
    from antvisionps.core.errors import DataError
    from antvisionps.params.section import parse, read_text

    if not path.exists():
        raise DataError(f"{path}: no such file; correct its path")
    return parse(path, read_text(path))


def _workers(args: argparse.Namespace) -> int:
    return args.workers or len(os.sched_getaffinity(0))


def _splits(args: argparse.Namespace, *names: str) -> dict[str, list[Path]]:
    """The places of train and, where it is given, of val."""
    train = {"train": [getattr(args, name) for name in names]}
    return train if args.val is None else train | {"val": args.val}


def _coco(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.coco import CocoFiles, read_coco

    semantic = {"train": args.semantic, "val": args.val_semantic or args.semantic}
    splits = _splits(args, "json", "photos")
    files = {name: CocoFiles(json, photos, semantic[name]) for name, (json, photos) in splits.items()}
    return read_coco(files, wanted, keeps_crowds=not args.no_crowds)


def _labelme(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.labelme import read_labelme

    folders = {name: folder for name, (folder,) in _splits(args, "folder").items()}
    return read_labelme(folders, wanted, workers=_workers(args))


def _yolo(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.yolo import read_yolo

    return read_yolo(args.data, _read_yaml(args.data), wanted, workers=_workers(args))


def _pngs(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.id_pngs import PngFiles, read_pngs

    numbers = {"train": args.instances, "val": args.val_instances or args.instances}
    splits = _splits(args, "labels", "photos")
    files = {name: PngFiles(labels, photos, numbers[name]) for name, (labels, photos) in splits.items()}
    return read_pngs(files, wanted)


def _panoptic(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.panoptic import PanopticFiles, read_panoptic_files

    files = {name: PanopticFiles(*places) for name, places in _splits(args, "json", "pngs", "photos").items()}
    return read_panoptic_files(files, wanted)


def _vistas(args: argparse.Namespace, wanted: Wanted) -> SourceSet:
    from antvisionps.datasets.conversion.panoptic import find_vistas, read_panoptic_files

    return read_panoptic_files(find_vistas(args.root, args.version), wanted)


def _to_coco(args: argparse.Namespace) -> None:
    from antvisionps.datasets.conversion.to_coco import write_coco

    images, instances = write_coco(args.annotations, args.maps, out=args.out, workers=_workers(args))
    print(f"{instances} instances and {images} semantic PNGs: {args.out / 'instances.json'}, {args.out / 'semantic'}")


def _report(out: Path, source: SourceSet, counts: Mapping[str, SplitCounts]) -> None:
    from antvisionps.report.tables import print_table

    rows = [
        {"id": one.category_id, "category": one.name, "kind": "thing" if one.is_thing else "stuff"}
        | _of_category(one.category_id, counts)
        for one in sorted(source.categories.categories, key=lambda one: one.category_id)
    ]
    print_table(f"Segments of {out}", rows, {f"{name} %": ".1f" for name in counts})
    for name, found in counts.items():
        print(f"{name}: {_sentence(found)}")
    if not source.categories.stuff:
        print("every category is a thing; name those that are stuff with --stuff, as --stuff sky road")
    print(f"next: antvisionps new-profile --root {out}")


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
