"""What a data set in the COCO panoptic format is like, as far as it decides how to run: sizes, counts, areas."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import is_hidden
from antvisionps.core.json_files import iterate_json
from antvisionps.core.progress import progress
from antvisionps.datasets.conversion.panoptic import PanopticFiles
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import UNKNOWN_AREA_PX, UNKNOWN_BBOX_XYWH, PanopticImage

MEASURED = 256
"""Images whose maps are opened where the JSON does not tell areas and boxes."""

DEPTH = 4
"""Folders below the root in which files are looked for."""

_SPLIT = {name: re.compile(rf"(?<![a-z]){name}") for name in ("train", "val")}
_REMEDY = "name the files with --train and --val"


@dataclass(frozen=True)
class Survey:
    """Numbers of train but for `val`; sides of photos are medians, `long_per_short` the median of their ratio.

    `box_side_frac` is the median of a thing's √(width · height) as a part of its photo's short side, `stuff_areas_px`
    the areas of all stuff segments, `things_per_image` the things of each image.
    """

    train: int
    val: int
    categories: CategorySet
    short_px: int
    long_px: int
    long_per_short: float
    box_side_frac: float
    things_per_image: np.ndarray
    stuff_areas_px: np.ndarray


def find_splits(root: Path, names: Iterable[str]) -> dict[str, PanopticFiles]:
    """Of train and val those of `names`, below a folder, by the names of their JSONs and the files that these name.

    Raises DataError where a split, its maps or its photos are not found.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; correct --root")
    folders, jsons = _below(root)
    found = {name: _annotations(root, jsons, name) for name in names}
    if None in found.values():
        _refuse_missing_split(root, jsons, found)
    return {name: _places(path, folders, name) for name, path in found.items() if path is not None}


def _below(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders to DEPTH, the root first, and the JSONs in them; links are followed no further."""
    folders, jsons = [root], []
    for place, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if not is_hidden(Path(name)))
        here = Path(place)
        jsons += [here / name for name in sorted(files) if name.endswith(".json") and not is_hidden(Path(name))]
        folders += [here / name for name in inside]
        if len(here.relative_to(root).parts) == DEPTH - 1:
            inside.clear()
    return folders, jsons


def _annotations(root: Path, jsons: Iterable[Path], split: str) -> Path | None:
    """The panoptic JSON whose path says the split; with `panoptic` in its name before others, the nearest first."""
    named = [path for path in jsons if _SPLIT[split].search(path.relative_to(root).as_posix().lower())]
    ordered = sorted(named, key=lambda path: ("panoptic" not in path.name, len(path.parts), -len(path.name), str(path)))
    return next((path for path in ordered if _is_panoptic(path)), None)


def _is_panoptic(path: Path) -> bool:
    try:
        return "segments_info" in _first(path, "annotations")
    except DataError:
        return False


def _first(path: Path, key: str) -> Mapping[str, Any]:
    rows = iterate_json(path, f"{key}.item", what="COCO panoptic JSON", remedy=_REMEDY, error=DataError)
    row = next(rows, None)
    return row if isinstance(row, dict) else {}


def _refuse_missing_split(root: Path, jsons: Sequence[Path], found: Mapping[str, Path | None]) -> None:
    panoptic = [path for path in jsons if _is_panoptic(path)]
    if not panoptic:
        raise DataError(
            f"{root}: no COCO panoptic JSON of {' and of '.join(found)} in it; make them from other formats with "
            f"`antvisionps convert`, or {_REMEDY}"
        )
    missing = next(name for name, path in found.items() if path is None)
    raise DataError(
        f"{root}: no COCO panoptic JSON with {missing!r} in its name, there is {panoptic[0]}; {_REMEDY}, or take a val "
        f"out of it with `antvisionps convert panoptic {panoptic[0]} PNGS PHOTOS --out DIR`"
    )


def _places(annotations: Path, folders: Sequence[Path], split: str) -> PanopticFiles:
    """`folders` begin with the root."""
    map_name = str(_first(annotations, "annotations").get("file_name"))
    photo_name = str(_first(annotations, "images").get("file_name"))

    def of_split(folder: Path) -> bool:
        return _SPLIT[split].search(folder.relative_to(folders[0]).as_posix().lower()) is not None

    maps = _holding(folders, map_name, annotations, of_split, is_map=True)
    photos = _holding([one for one in folders if one != maps], photo_name, annotations, of_split, is_map=False)
    if maps is None or photos is None:
        what, name = ("PNGs", map_name) if maps is None else ("photos", photo_name)
        raise DataError(f"{annotations}: no folder of its {what}, as {name}, near it; {_REMEDY}")
    return PanopticFiles(annotations, maps, photos)


def _holding(
    folders: Iterable[Path], name: str, annotations: Path, of_split: Callable[[Path], bool], *, is_map: bool
) -> Path | None:
    """The folder that has the file: for maps one of the JSON's stem or of `panoptic` first, for photos last; then one
    that names the split, then the nearest to the JSON."""
    holding = [folder for folder in folders if (folder / name).is_file()]

    def key(folder: Path) -> tuple[bool, bool, bool, int]:
        names_json, says_panoptic = folder.name == annotations.stem, "panoptic" in folder.name
        shared = len(os.path.commonpath([folder, annotations]))
        return names_json != is_map, says_panoptic != is_map, not of_split(folder), -shared

    return min(holding, key=key, default=None)


def survey(splits: Mapping[str, PanopticFiles]) -> tuple[Survey, dict[str, PanopticDataset]]:
    """What train and val are like, and both as they were read. Raises what `read_panoptic` does."""
    datasets = {name: files.read() for name, files in splits.items()}
    return _survey(datasets["train"], val=len(datasets["val"].images)), datasets


def _survey(train: PanopticDataset, *, val: int) -> Survey:
    images = _measured(train)
    sides = np.array([sorted((image.height, image.width)) for image in train.images])
    thing_ids = train.categories.thing_ids
    boxes = [
        np.sqrt(segment.bbox_xywh[2] * segment.bbox_xywh[3]) / min(image.height, image.width)
        for image in images
        for segment in image.segments
        if segment.category_id in thing_ids and not segment.is_crowd
    ]
    stuff = [one.area_px for image in images for one in image.segments if one.category_id not in thing_ids]
    things = [sum(one.category_id in thing_ids for one in image.segments) for image in train.images]
    short_px, long_px = np.median(sides, axis=0).astype(int).tolist()
    return Survey(
        train=len(train.images),
        val=val,
        categories=train.categories,
        short_px=short_px,
        long_px=long_px,
        long_per_short=float(np.median(sides[:, 1] / sides[:, 0])),
        box_side_frac=float(np.median(boxes)) if boxes else 1.0,
        things_per_image=np.array(things),
        stuff_areas_px=np.array(stuff),
    )


def _measured(dataset: PanopticDataset) -> list[PanopticImage]:
    """Images whose segments have areas and boxes: all, or those of MEASURED maps."""
    unknown = [image for image in dataset.images if any(map(_is_unmeasured, image.segments))]
    if not unknown:
        return list(dataset.images)
    places = np.linspace(0, len(dataset.images) - 1, min(MEASURED, len(dataset.images))).astype(int)
    images = [dataset.images[place] for place in places]
    bar = progress(images, description="measure maps", total=len(images), unit="image")
    return [dataset.measure(image, dataset.load_segment_ids(image)) for image in bar]


def _is_unmeasured(segment: Any) -> bool:
    return segment.area_px == UNKNOWN_AREA_PX or segment.bbox_xywh == UNKNOWN_BBOX_XYWH
