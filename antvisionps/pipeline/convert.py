"""Data sets of other formats in the COCO panoptic format, and back: a function for each format.

All but `to_coco` write OUT/panoptic_train.json, the PNGs in OUT/panoptic_train, and OUT/images_train, a link to the
photos; the same of val. A former result in OUT is replaced, whole or not at all. Things lie over stuff, smaller things
over larger ones; what nothing covers is void. `val` is the place, or are the places, of val's images; without it a part
of the images becomes val. They raise DataError on what breaks the format, and OutputError where OUT holds other files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from antvisionps.core.errors import DataError
from antvisionps.datasets.conversion.coco import CocoFiles, read_coco
from antvisionps.datasets.conversion.id_pngs import PngFiles, read_pngs
from antvisionps.datasets.conversion.labelme import read_labelme
from antvisionps.datasets.conversion.panoptic import PanopticFiles, find_vistas, read_panoptic_files
from antvisionps.datasets.conversion.source import SourceSet, Wanted, split_off_val
from antvisionps.datasets.conversion.to_coco import write_coco
from antvisionps.datasets.conversion.writing import SplitCounts, write_data_set
from antvisionps.datasets.conversion.yolo import read_yolo
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.section import parse, read_text

VAL_FRAC, SEED = 0.2, 2019
"""The part of the images that is val where none is given, and what they are drawn by."""

Location = str | PathLike[str]


class Options(TypedDict, total=False):
    """What every format takes.

    `stuff`: names of categories that are stuff, while the others are things; `categories`: all categories, a list of
    {id, name, isthing} or the path of a YAML or JSON with it; `val_frac`: the part of the images that becomes val,
    0 for none; `workers`: processes.
    """

    stuff: Iterable[str]
    categories: Location | Iterable[Mapping[str, Any]]
    val_frac: float
    workers: int


@dataclass(frozen=True)
class Converted:
    """The folder that was written, its categories, and split → what is in it."""

    folder: Path
    categories: CategorySet
    counts: Mapping[str, SplitCounts]


def coco(
    annotations: Location,
    photos: Location,
    *,
    out: Location,
    val: tuple[Location, Location] | None = None,
    semantic: Location | None = None,
    val_semantic: Location | None = None,
    keeps_crowds: bool = True,
    **options: Unpack[Options],
) -> Converted:
    """From COCO instances, also as CVAT, Label Studio and Roboflow export them: a JSON and the folder of its photos.

    `semantic`: a folder of PNGs of category ids, whose stuff lies at the bottom; `val_semantic`: that of val, where it
    is another. Without `keeps_crowds` crowds become instances.
    """
    semantics = {"train": _path(semantic), "val": _path(val_semantic or semantic)}
    splits = _splits((annotations, photos), val)
    files = {name: CocoFiles(json, folder, semantics[name]) for name, (json, folder) in splits.items()}
    return _write(read_coco(files, _wanted(options), keeps_crowds=keeps_crowds), out, options)


def labelme(folder: Location, *, out: Location, val: Location | None = None, **options: Unpack[Options]) -> Converted:
    """From a folder of photos, each with Labelme's JSON beside it, or in it."""
    folders = {"train": Path(folder)} | ({} if val is None else {"val": Path(val)})
    return _write(read_labelme(folders, _wanted(options), workers=_workers(options)), out, options)


def yolo(data: Location, *, out: Location, **options: Unpack[Options]) -> Converted:
    """From YOLO's outlines: the path of data.yaml, which names the photos of train and val."""
    source = read_yolo(Path(data), _read_yaml(Path(data)), _wanted(options), workers=_workers(options))
    return _write(source, out, options)


def pngs(
    labels: Location,
    photos: Location,
    *,
    out: Location,
    val: tuple[Location, Location] | None = None,
    instances: Location | None = None,
    val_instances: Location | None = None,
    **options: Unpack[Options],
) -> Converted:
    """From label PNGs, as Cityscapes and PASCAL VOC have them: labels, or label · 1000 + number of the instance.

    `instances`: a folder of PNGs of instance numbers, 0 outside of instances; `val_instances`: that of val, where it is
    another. `categories` are needed.
    """
    numbers = {"train": _path(instances), "val": _path(val_instances or instances)}
    splits = _splits((labels, photos), val)
    files = {name: PngFiles(png, photo, numbers[name]) for name, (png, photo) in splits.items()}
    return _write(read_pngs(files, _wanted(options)), out, options)


def panoptic(
    annotations: Location,
    maps: Location,
    photos: Location,
    *,
    out: Location,
    val: tuple[Location, Location, Location] | None = None,
    **options: Unpack[Options],
) -> Converted:
    """From COCO panoptic, to take val out of one JSON: a JSON, the folder of its PNGs, that of its photos."""
    splits = _splits((annotations, maps, photos), val)
    files = {name: PanopticFiles(*places) for name, places in splits.items()}
    return _write(read_panoptic_files(files, _wanted(options)), out, options)


def vistas(root: Location, *, out: Location, version: str | None = None, **options: Unpack[Options]) -> Converted:
    """From Mapillary Vistas: the folder of training and validation. `version`: v1.2 or v2.0, the newest without it."""
    return _write(read_panoptic_files(find_vistas(Path(root), version), _wanted(options)), out, options)


def to_coco(annotations: Location, maps: Location, *, out: Location, workers: int = 1) -> tuple[int, int]:
    """From COCO panoptic to OUT/instances.json, OUT/semantic/*.png of category ids (void is a label of no category) and
    OUT/categories.json; returns how many images and instances there are."""
    return write_coco(Path(annotations), Path(maps), out=Path(out), workers=workers)


def _path(place: Location | None) -> Path | None:
    return None if place is None else Path(place)


def _splits(train: tuple[Location, ...], val: tuple[Location, ...] | None) -> dict[str, list[Path]]:
    """Raises DataError on a val of more or fewer places than train has."""
    if val is None:
        return {"train": [Path(place) for place in train]}
    if isinstance(val, str | PathLike) or len(val) != len(train):
        raise DataError(f"val: expected {len(train)} places, as train has them, got {val!r}")
    return {"train": [Path(place) for place in train], "val": [Path(place) for place in val]}


def _workers(options: Options) -> int:
    return options.get("workers", 1)


def _wanted(options: Options) -> Wanted:
    """Raises TypeError on an option that there is none of, as Python does."""
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(
            f"unexpected keyword argument {min(unknown)!r}; expected one of {sorted(Options.__annotations__)}"
        )
    stuff, categories = options.get("stuff", ()), options.get("categories")
    stuff = (stuff,) if isinstance(stuff, str) else tuple(stuff)
    if categories is None:
        return Wanted(stuff=stuff)
    if isinstance(categories, str | PathLike):
        return Wanted.of(_read_yaml(Path(categories)), stuff, where=str(categories))
    return Wanted.of(list(categories), stuff, where="categories")


def _read_yaml(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path}: no such file; correct its path")
    return parse(path, read_text(path))


def _write(source: SourceSet, out: Location, options: Options) -> Converted:
    source = split_off_val(source, val_frac=options.get("val_frac", VAL_FRAC), seed=SEED)
    counts = write_data_set(Path(out), source, workers=_workers(options))
    return Converted(Path(out), source.categories, counts)
