"""Folders of label PNGs: the label alone, label · 1000 + number inside an instance, or numbers in PNGs of their own.

A PNG is found by the photo's name; what all photos or all PNGs have in common at the end of their names does not count,
as `_leftImg8bit` and `_gtFine_instanceIds` of Cityscapes. Where photos in several folders have one name, the folders of
PNGs tell them apart.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import files_below, read_file
from antvisionps.core.skipped import SkippedRows
from antvisionps.datasets.conversion.photos import common_folder
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted, number_from_1
from antvisionps.datasets.instance_ids import INSTANCES_PER_LABEL, SegmentMap, to_segment_map
from antvisionps.datasets.pictures import find_pictures
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.png import decode_labels, read_header


@dataclass(frozen=True, slots=True)
class PngFiles:
    """A split: the folder of label PNGs, that of photos, that of PNGs of instance numbers (0: none)."""

    labels: Path
    photos: Path
    instances: Path | None = None


OF_CITYSCAPES = "_instanceIds"
"""How the names of its PNGs of labels and numbers end; beside them lie others of the same photos."""

APART = -1
"""Less than any depth: the folders of a PNG and a photo have nothing in common."""

Read = TypeVar("Read")


def match_pngs(folder: Path, photos: Sequence[Path], *, needed: Iterable[Path] = ()) -> dict[Path, Path]:
    """Photo → its PNG in or below the folder, of the photos that have one.

    Of photos of one name, and of PNGs of one name, those belong together whose folders do. Raises DataError on two PNGs
    of a photo, two photos of a PNG, a photo that is `needed` and has none, and where none has one.
    """
    pngs_of = _pngs_by_name(folder)
    stems = [photo.stem for photo in photos]
    ending, times, top = _common_ending(stems), Counter(stems), common_folder(photos)
    png_of: dict[Path, Path] = {}
    photo_of: dict[Path, Path] = {}
    for photo in photos:
        found = pngs_of.get(photo.stem) or pngs_of.get(photo.stem.removesuffix(ending), [])
        depth_of = {png: _common_depth(png.parent.relative_to(folder), photo.absolute().parent, top) for png in found}
        deepest = max(depth_of.values(), default=APART)
        if not found or (deepest == APART and times[photo.stem] > 1):
            continue
        png, *others = (png for png, depth in depth_of.items() if depth == deepest)
        if others:
            raise DataError(f"{png} and {others[0]}: both would be of photo {photo}; give a folder with one for each")
        if (other := photo_of.setdefault(png, photo)) != photo:
            raise DataError(f"{png}: would be of photo {other} and of {photo}; lay PNGs into folders as photos")
        png_of[photo] = png
    for photo in needed if png_of else photos:
        if photo not in png_of:
            raise DataError(f"{folder}: no PNG for {photo}; expected {photo.stem}.png there, or remove the photo")
    return png_of


def _pngs_by_name(folder: Path) -> dict[str, list[Path]]:
    """By their whole names, and by these without the ending that all of them have."""
    paths = [path for path in files_below(folder) if path.suffix.lower() == ".png"] if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder}: no PNG in this folder; expected one for each photo, of its name")
    paths = [path for path in paths if path.stem.endswith(OF_CITYSCAPES)] or paths
    ending = _common_ending([path.stem for path in paths])
    pngs_of: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        for name in {path.stem, path.stem.removesuffix(ending)}:
            pngs_of[name].append(path)
    return pngs_of


def _common_depth(below: Path, folder: Path, top: Path) -> int:
    """How many folders a PNG lies `below` the PNGs' own, where a photo's `folder` ends in the same, else APART; beside
    no folder belongs the `top` of the photos."""
    depth = len(below.parts)
    return depth if (folder.parts[-depth:] == below.parts if depth else folder == top) else APART


def read_pngs(splits: dict[str, PngFiles], wanted: Wanted) -> SourceSet:
    """Images are numbered from 1 in the order of their names, train's first. Labels that are no category are void."""
    categories = wanted.of_rows([], where="--categories")
    for one in categories.categories:
        if not int(one.is_thing) <= one.category_id < INSTANCES_PER_LABEL:
            raise DataError(
                f"--categories: {one.name}: expected an id from 0, of a thing from 1, to {INSTANCES_PER_LABEL - 1}, as "
                f"it is the label in the PNGs, got {one.category_id}"
            )
    return number_from_1(categories, {name: _read_split(files, categories) for name, files in splits.items()})


def _read_split(files: PngFiles, categories: CategorySet) -> list[SourceImage]:
    photos = [picture.path for picture in find_pictures([files.photos])[0]]
    labels = match_pngs(files.labels, photos)
    numbers = {} if files.instances is None else match_pngs(files.instances, photos, needed=labels)
    skipped = SkippedRows(str(files.photos))
    for photo in photos:
        if photo not in labels:
            skipped.add("photos without a PNG are left out", photo.name)
    skipped.tell()
    return [
        SourceImage(0, photo, *_read(png, read_header).hw, (), partial(_read_map, png, numbers.get(photo), categories))
        for photo, png in labels.items()
    ]


def _read_map(path: Path, numbers: Path | None, categories: CategorySet) -> SegmentMap:
    labels = read_labels(path)
    if numbers is None:
        return to_segment_map(labels, categories)
    things = np.isin(labels, [thing.category_id for thing in categories.things])
    instances = read_labels(numbers, labels.shape)
    if instances.max(initial=0) >= INSTANCES_PER_LABEL:
        raise DataError(f"{numbers}: expected numbers of instances below {INSTANCES_PER_LABEL}, got {instances.max()}")
    inside = things & (instances > 0)
    ids = np.where(inside, labels.astype(np.int32) * INSTANCES_PER_LABEL + instances, labels.astype(np.int32))
    return to_segment_map(ids, categories)


def read_labels(path: Path, hw: tuple[int, ...] | None = None) -> np.ndarray:
    """(H, W) uint8 or uint16. Raises DataError on anything but a grey or palette PNG, of that size if one is given."""
    labels = _read(path, decode_labels)
    if hw is not None and labels.shape != hw:
        got = f"{labels.shape[1]}x{labels.shape[0]}"
        raise DataError(f"{path}: expected {hw[1]}x{hw[0]} pixels (width x height of the photo), got {got}")
    return labels


def _read(path: Path, decode: Callable[[bytes], Read]) -> Read:
    try:
        return decode(read_file(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable label PNG ({getattr(error, 'strerror', None) or error})") from error


def _common_ending(names: Sequence[str]) -> str:
    """Of two or more names; from an underscore, hyphen or dot on, as names often end in the same digit."""
    if len(names) < 2:
        return ""
    from_last = zip(*map(reversed, names), strict=False)
    common = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, from_last))
    return re.sub(r"^[^_.-]*", "", common[::-1])
