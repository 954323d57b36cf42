"""Writes what a reader handed over as a COCO panoptic data set.

    OUT/panoptic_train.json, OUT/panoptic_train/*.png, OUT/images_train, and the same of val

`images_train` is a link to the folder of the photos, which stay where they lie. Where an annotation holds a photo, it
leads to OUT/embedded_photos_train, which has that photo and a link to each of the others.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath

from antvisionps.core.atomic import atomic_folder, refuse_other_files
from antvisionps.core.errors import DataError, OutputError
from antvisionps.core.file_names import path_below
from antvisionps.datasets.conversion.layers import empty_map, lay_regions
from antvisionps.datasets.conversion.photos import common_folder
from antvisionps.datasets.conversion.source import SourceImage, SourceSet
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments, number_images
from antvisionps.parallel.images import map_images

SPLITS = ("train", "val")


@dataclass
class SplitCounts:
    """What a split has, in images, segments and pixels; the counters by category_id."""

    images: int = 0
    without_segments: int = 0
    pixels: int = 0
    void_px: int = 0
    overlap_px: int = 0
    hidden: int = 0
    segments: Counter[int] = field(default_factory=Counter)
    crowds: Counter[int] = field(default_factory=Counter)
    segment_px: Counter[int] = field(default_factory=Counter)

    def add(self, image: PanopticImage, overlap_px: int, hidden: int) -> None:
        pixels = image.height * image.width
        self.images += 1
        self.without_segments += not image.segments
        self.pixels += pixels
        self.void_px += pixels - sum(segment.area_px for segment in image.segments)
        self.overlap_px += overlap_px
        self.hidden += hidden
        for segment in image.segments:
            self.segments[segment.category_id] += 1
            self.crowds[segment.category_id] += segment.is_crowd
            self.segment_px[segment.category_id] += segment.area_px


def annotations_name(split: str) -> str:
    return f"panoptic_{split}.json"


def write_data_set(out: Path, source: SourceSet, *, workers: int) -> dict[str, SplitCounts]:
    """Replaces OUT, whole or not at all, and says what is in each split.

    Raises OutputError where OUT holds anything but a former result, and DataError on two photos whose maps would have
    the same name.
    """
    _refuse_foreign(out, source)
    with atomic_folder(out) as folder:
        return {
            name: _write_split(folder, out, name, images, source.categories, workers)
            for name, images in source.splits.items()
        }


def _refuse_foreign(out: Path, source: SourceSet) -> None:
    whole = out.resolve()
    if inside := next((one.photo for images in source.splits.values() for one in images if _lies_in(one, whole)), None):
        raise OutputError(f"{out}: holds {inside}, and is replaced whole; name a folder of its own with --out")
    of_split = (annotations_name, "panoptic_{}".format, _embedded_name)
    names = [name(split) for split in SPLITS for name in of_split]
    refuse_other_files(out, names=names, links=[f"images_{split}" for split in SPLITS])


def _lies_in(image: SourceImage, folder: Path) -> bool:
    return image.photo.absolute().is_relative_to(folder) or image.photo.resolve().is_relative_to(folder)


def _write_split(
    folder: Path, out: Path, name: str, images: Sequence[SourceImage], categories: CategorySet, workers: int
) -> SplitCounts:
    maps = folder / f"panoptic_{name}"
    photos = common_folder(image.photo for image in images)
    names = _map_names(images, photos)
    for map_name in names.values():
        path_below(maps, map_name, error=DataError).parent.mkdir(parents=True, exist_ok=True)
    items = [(image, photo_name, map_name) for image, (photo_name, map_name) in zip(images, names.items(), strict=True)]
    open_work = partial(_open_writing, maps, categories)
    counts, written = SplitCounts(), []
    for image, overlap_px, hidden in map_images(open_work, items, workers=workers, description=f"convert {name}"):
        counts.add(image, overlap_px, hidden)
        written.append(image)
    write_panoptic_json(folder / annotations_name(name), categories=categories, images=number_images(written))
    embedded = any(image.read_photo for image in images)
    if embedded:
        _gather_photos(images, photos, folder / _embedded_name(name), will_be=_resolved(out) / _embedded_name(name))
    target = _embedded_name(name) if embedded else os.path.relpath(photos.resolve(), _resolved(out))
    (folder / f"images_{name}").symlink_to(target, target_is_directory=True)
    return counts


def _embedded_name(split: str) -> str:
    return f"embedded_photos_{split}"


def _resolved(out: Path) -> Path:
    """Where OUT will be, which may be no folder yet."""
    return out.parent.resolve() / out.name


def _gather_photos(images: Sequence[SourceImage], photos: Path, folder: Path, *, will_be: Path) -> None:
    """Photos that annotations hold, and links to the others, by their names below `photos`, into `folder`, which gets
    the path `will_be`."""
    for image in images:
        name = image.photo.absolute().relative_to(photos)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if image.read_photo is None:
            (folder / name).symlink_to(os.path.relpath(image.photo.resolve(), (will_be / name).parent))
        else:
            (folder / name).write_bytes(image.read_photo())


def _map_names(images: Sequence[SourceImage], photos: Path) -> Mapping[str, str]:
    """Each photo's name below the common folder → that of its map. Raises DataError where two would be of one name."""
    names: dict[str, str] = {}
    photo_of: dict[str, Path] = {}
    for image in images:
        name = PurePath(image.photo.absolute().relative_to(photos))
        map_name = name.with_suffix(".png").as_posix()
        if map_name in photo_of:
            raise DataError(
                f"{photo_of[map_name]} and {image.photo}: the maps of both would be called {map_name}; rename one, or "
                "keep one of two annotations of a photo"
            )
        photo_of[map_name] = image.photo
        names[name.as_posix()] = map_name
    return names


def _open_writing(
    maps: Path, categories: CategorySet
) -> Callable[[tuple[SourceImage, str, str]], tuple[PanopticImage, int, int]]:
    return partial(_write_image, maps, categories)


def _write_image(
    maps: Path, categories: CategorySet, item: tuple[SourceImage, str, str]
) -> tuple[PanopticImage, int, int]:
    """Writes the map. The image with its segments; the pixels of several things; the things without a pixel."""
    source, photo_name, map_name = item
    below = empty_map(source.height, source.width) if source.read_map is None else source.read_map()
    layered = lay_regions(source.regions, categories, below)
    ids = layered.map.segment_ids
    write_segment_ids_png(maps / map_name, ids)
    segments = measure_segments(ids, category_ids=layered.map.category_ids, crowd_ids=layered.map.crowd_ids)
    hw = (source.height, source.width)
    image = PanopticImage(0, photo_name, map_name, *hw, segments=segments, given_id=source.image_id)
    return image, layered.overlap_px, layered.hidden
