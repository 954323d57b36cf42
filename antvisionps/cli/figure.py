"""`antvisionps figure …`: photo, each system's map and the truth, side by side for print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antvisionps.core.errors import CacheError, DataError
from antvisionps.core.extras import needs_extra

if TYPE_CHECKING:
    from antvisionps.inspection.fused import FusedMaps
    from antvisionps.panoptic.dataset import PanopticDataset
    from antvisionps.report.figure import Panel

TITLES = {"e_ups": "E-UPS", "lwl_htc": "LWL-HTC", "hrnet_aspp": "HRNet-ASPP", "fusion": "Fusion"}
"""How the report writes the systems' names; others are titled as they are called."""

FUSION = "fusion"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    description = "Draws images of val, one a row: photo, the map of every system, truth, and a legend."
    figure = commands.add_parser("figure", help="a figure of photos and maps for print", description=description)
    figure.add_argument("--image", nargs="+", required=True, metavar="ID", help="ids of val images, a row each")
    figure.add_argument("--out", type=Path, required=True, metavar="FILE", help="figure.pdf or figure.png")
    figure.add_argument(
        "--systems", nargs="+", metavar="NAME", help="columns between photo and truth (default: all, the fusion last)"
    )
    figure.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: %(default)s")
    figure.set_defaults(run=_figure)


def _figure(args: argparse.Namespace) -> None:
    with needs_extra("figures"):
        from antvisionps.report.figure import refuse_other_formats, write_figure
    from antvisionps.core.atomic import refuse_unwritable
    from antvisionps.inspection.fused import open_fused_maps
    from antvisionps.panoptic.splits import open_split

    refuse_other_formats(args.out)
    refuse_unwritable(args.out)
    truth = open_split(args.data / "prepared", "val")
    names = args.systems or _systems_in(args.data / "fused")
    systems = [open_fused_maps(args.data / "fused" / name) for name in names]
    for maps in systems:
        if maps.categories != truth.categories:
            raise CacheError(f"{maps.folder}: of other categories than {truth.annotations}; run `dvc repro fuse`")
    rows = [_row(text, truth, systems) for text in args.image]
    titles = ["Photo", *(TITLES.get(name, name) for name in names), "Truth"]
    write_figure(args.out, rows, titles=titles, categories=truth.categories)
    print(args.out)


def _systems_in(fused_dir: Path) -> list[str]:
    found = sorted(path.parent.name for path in fused_dir.glob("*/panoptic.json"))
    if not found:
        raise CacheError(f"{fused_dir}: no fused system; run `dvc repro fuse`, or name the folder with --data")
    return sorted(found, key=lambda name: (name == FUSION, name))


def _row(text: str, truth: PanopticDataset, systems: Sequence[FusedMaps]) -> list[Panel]:
    from antvisionps.inspection.collection import image_id_of_text, name_nearest
    from antvisionps.report.figure import Panel

    ids = [image.source_id for image in truth.images]
    image_id = image_id_of_text(text, ids)
    image = next((image for image in truth.images if image.source_id == image_id), None)
    if image is None:
        raise DataError(f"{truth.annotations}: no image {image_id}{name_nearest(image_id, ids)}")
    photo = truth.load_photo(image)
    maps = [maps[image_id] for maps in systems]
    return [
        Panel(photo),
        *(Panel(photo, fused.segment_ids, fused.image.segments) for fused in maps),
        Panel(photo, truth.load_segment_ids(image), image.segments),
    ]
