"""Folders of label PNGs: the label alone, label · 1000 + number inside an instance, or numbers in PNGs of their own.

A PNG is found by the photo's name; what all photos or all PNGs have in common at the end of their names does not count,
as `_leftImg8bit` and `_gtFine_instanceIds` of Cityscapes. Where photos in several folders have one name, the folders of
PNGs tell them apart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import files_below, read_file
from antvisionps.core.skipped import SkippedRows
from antvisionps.datasets.conversion.photos import common_folder
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted
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


class PngFinder:
    """The PNGs in and below a folder, by the photos that they are of."""

    def __init__(self, folder: Path, photos: Sequence[Path]) -> None:
        self._folder = folder
        paths = [path for path in files_below(folder) if path.suffix.lower() == ".png"] if folder.is_dir() else []
        if not paths:
            raise DataError(f"{folder}: no PNG in this folder; expected one for each photo, of its name")
        paths = [path for path in paths if path.stem.endswith(OF_CITYSCAPES)] or paths
        ending = _common_ending([path.stem for path in paths])
        self._paths_of: defaultdict[str, list[Path]] = defaultdict(list)
        for path in paths:
            for name in {path.stem, path.stem.removesuffix(ending)}:
                self._paths_of[name].append(path)
        self._photo_ending = _common_ending([photo.stem for photo in photos])
        self._times = Counter(photo.stem for photo in photos)
        self._photos = common_folder(photos)
        self._photo_of: dict[Path, Path] = {}

    def look_up(self, photo: Path) -> Path | None:
        """Of photos of one name, and of PNGs of one name, those belong together whose folders do. Raises DataError on
        two PNGs of a photo, and on two photos of a PNG."""
        names = (photo.stem, photo.stem.removesuffix(self._photo_ending))
        found = next((self._paths_of[name] for name in names if name in self._paths_of), [])
        if len(found) > 1 or self._times[photo.stem] > 1:
            beside = self._in_same_folder(found, photo)
            found = beside if beside or self._times[photo.stem] > 1 else found
        if len(found) > 1:
            raise DataError(
                f"{found[0]} and {found[1]}: both would be of photo {photo}; give a folder with one for each"
            )
        if not found:
            return None
        other = self._photo_of.setdefault(found[0], photo)
        if other != photo:
            raise DataError(f"{found[0]}: would be of photo {other} and of {photo}; lay PNGs into folders as photos")
        return found[0]

    def _in_same_folder(self, paths: Iterable[Path], photo: Path) -> list[Path]:
        """Those whose folder below the PNGs' own is the end of the photo's; the deepest of them."""
        folder = photo.absolute().parent
        depth_of = {path: len(path.relative_to(self._folder).parts) - 1 for path in paths}
        beside = [
            path
            for path, depth in depth_of.items()
            if (path.parent.parts[-depth:] == folder.parts[-depth:] if depth else folder == self._photos)
        ]
        return [path for path in beside if depth_of[path] == max(depth_of[one] for one in beside)]

    def find(self, photo: Path) -> Path:
        if (found := self.look_up(photo)) is None:
            raise DataError(f"{self._folder}: no PNG for {photo}; expected {photo.stem}.png there, or remove the photo")
        return found


def read_pngs(splits: dict[str, PngFiles], wanted: Wanted) -> SourceSet:
    """Images are numbered from 1 in the order of their names, train's first. Labels that are no category are void."""
    categories = wanted.of_rows([], where="--categories")
    for one in categories.categories:
        if not int(one.is_thing) <= one.category_id < INSTANCES_PER_LABEL:
            raise DataError(
                f"--categories: {one.name}: expected an id from 0, of a thing from 1, to {INSTANCES_PER_LABEL - 1}, as "
                f"it is the label in the PNGs, got {one.category_id}"
            )
    found: dict[str, list[SourceImage]] = {}
    for name, files in splits.items():
        first = 1 + sum(map(len, found.values()))
        found[name] = _read_split(files, categories, first)
    return SourceSet(categories, found)


def _read_split(files: PngFiles, categories: CategorySet, first: int) -> list[SourceImage]:
    photos = [picture.path for picture in find_pictures([files.photos])[0]]
    labels = PngFinder(files.labels, photos)
    numbers = None if files.instances is None else PngFinder(files.instances, photos)
    images: list[SourceImage] = []
    skipped = SkippedRows(str(files.photos))
    for photo in photos:
        if (path := labels.look_up(photo)) is None:
            skipped.add("photos without a PNG are left out", photo.name)
            continue
        height, width = _png_hw(path)
        read_map = partial(_read_map, path, None if numbers is None else numbers.find(photo), categories)
        images.append(SourceImage(first + len(images), photo, height, width, (), read_map))
    if not images:
        labels.find(photos[0])  # says what is expected
    skipped.tell()
    return images


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
    try:
        labels = decode_labels(read_file(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable label PNG ({getattr(error, 'strerror', None) or error})") from error
    if hw is not None and labels.shape != hw:
        got = f"{labels.shape[1]}x{labels.shape[0]}"
        raise DataError(f"{path}: expected {hw[1]}x{hw[0]} pixels (width x height of the photo), got {got}")
    return labels


def _png_hw(path: Path) -> tuple[int, int]:
    try:
        return read_header(read_file(path)).hw
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable label PNG ({getattr(error, 'strerror', None) or error})") from error


def _common_ending(names: Iterable[str]) -> str:
    """Of two or more names; from an underscore, hyphen or dot on, as names often end in the same digit."""
    first, *others = list(names) or [""]
    length = 0
    while others and length < len(first) and all(name.endswith(first[len(first) - length - 1 :]) for name in others):
        length += 1
    ending = first[len(first) - length :]
    starts = [place for place, letter in enumerate(ending) if letter in "_-."]
    return ending[starts[0] :] if starts else ""
