"""COCO instances JSONs, as COCO, CVAT, Label Studio, Roboflow and others write them, and semantic PNGs beside them.

Format: https://cocodataset.org/#format-data. What exports leave out may be missing: `iscrowd`, `area`, `bbox`, sizes.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from antvisionps.core.errors import DataError
from antvisionps.datasets.coco_instances import read_annotations, read_rows
from antvisionps.datasets.conversion.id_pngs import match_pngs, read_labels
from antvisionps.datasets.conversion.photos import PhotoFinder, annotated_hw
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted, same_categories
from antvisionps.datasets.instance_ids import SegmentMap, to_segment_map
from antvisionps.panoptic.categories import CategorySet, refuse_duplicates
from antvisionps.panoptic.coco_json import parse_value
from antvisionps.panoptic.ids import one_line, parse_image_id

REMEDY = "give a COCO instances JSON, or `convert panoptic` where it is a panoptic one"

MANY_CROWDS = 0.05
"""The part of all annotations; of COCO's it is a hundredth."""


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """A split: its JSON, the folder of its photos, the folder of semantic PNGs whose labels are category ids."""

    annotations: Path
    photos: Path
    semantic: Path | None = None


def read_coco(splits: dict[str, CocoFiles], wanted: Wanted, *, keeps_crowds: bool = True) -> SourceSet:
    """Raises DataError on splits of different categories, and on what breaks the format; photos have to be there."""
    paths = [files.annotations for files in splits.values()]
    categories = same_categories({path: _categories(path, wanted) for path in paths})
    return SourceSet(categories, {name: _read_split(files, categories, keeps_crowds) for name, files in splits.items()})


def _categories(path: Path, wanted: Wanted) -> CategorySet:
    rows = list(read_rows(path, "categories", remedy=REMEDY))
    if strange := [row for row in rows if not isinstance(row, dict)]:
        raise DataError(f"{path}: expected categories with id and name, got {str(strange[0])[:80]}; {REMEDY}")
    return wanted.of_rows((row for row in rows if not _is_root(row, rows)), where=str(path))


def _is_root(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is the category 0 that Roboflow writes as a group of the others and annotates nothing with."""
    is_group = (row.get("id"), row.get("supercategory")) == (0, "none")
    return is_group and row.get("name") in [other.get("supercategory") for other in rows]


def _read_split(files: CocoFiles, categories: CategorySet, keeps_crowds: bool) -> list[SourceImage]:
    images = _images(files, categories)
    where = str(files.annotations)
    refuse_duplicates((image.image_id for image in images), "image id", where)
    hw_of = {image.image_id: (image.height, image.width) for image in images}
    found = read_annotations(files.annotations, hw_of, set(categories.category_ids.tolist()), remedy=REMEDY)
    if keeps_crowds:
        _warn_of_many_crowds(where, [is_crowd for rows in found.values() for _, is_crowd, _ in rows])
    else:
        found = {image_id: [(one, False, rle) for one, _, rle in rows] for image_id, rows in found.items()}
    return [replace(image, regions=tuple(found.get(image.image_id, ()))) for image in images]


def _warn_of_many_crowds(where: str, is_crowd: Sequence[bool]) -> None:
    if sum(is_crowd) > MANY_CROWDS * len(is_crowd):
        print(
            f"warning: {where}: {sum(is_crowd)} of {len(is_crowd)} annotations are crowds, which are neither learned "
            "nor scored as instances; CVAT writes every painted mask so: --no-crowds takes them as instances",
            file=sys.stderr,
        )


def _images(files: CocoFiles, categories: CategorySet) -> list[SourceImage]:
    """Without regions yet."""
    photos = PhotoFinder(files.photos)
    rows = read_rows(files.annotations, "images", remedy=REMEDY)
    images = [_image(row, photos, str(files.annotations)) for row in rows]
    if files.semantic is None:
        return images
    of_images = [image.photo for image in images]
    png_of = match_pngs(files.semantic, of_images, needed=of_images)
    return [
        replace(image, read_map=partial(_read_stuff, png_of[image.photo], (image.height, image.width), categories))
        for image in images
    ]


def _image(row: Any, photos: PhotoFinder, where: str) -> SourceImage:
    if not isinstance(row, dict):
        raise DataError(f"{where}: an image: expected an object, got {str(row)[:80]}; correct it")
    image_id = parse_value(row, "id", parse_image_id, f"{where}: an image")
    where = f"{where}: image {image_id}"
    photo = photos.find(parse_value(row, "file_name", one_line, where), where=where)
    try:
        height, width = annotated_hw(row.get("height"), row.get("width"), photo)
    except ValueError as error:
        raise DataError(f"{where}: {error}; correct it") from error
    return SourceImage(image_id, photo, height, width, ())


def _read_stuff(path: Path, hw: tuple[int, int], categories: CategorySet) -> SegmentMap:
    """The stuff of a semantic PNG; its other labels are void."""
    return to_segment_map(read_labels(path, hw), CategorySet(categories.stuff), label_of=int)
