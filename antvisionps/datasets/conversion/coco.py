"""COCO instances JSONs, as COCO, CVAT, Label Studio, Roboflow and others write them, and semantic PNGs beside them.

Format: https://cocodataset.org/#format-data. What exports leave out may be missing: `iscrowd`, `area`, `bbox`, sizes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import files_below, read_file
from antvisionps.datasets.coco_instances import AnnotationReader, read_rows
from antvisionps.datasets.conversion.photos import PhotoFinder, photo_hw
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted
from antvisionps.datasets.instance_ids import SegmentMap, to_segment_map
from antvisionps.panoptic.categories import CategorySet, refuse_duplicates
from antvisionps.panoptic.ids import one_line, parse_image_id, whole_number
from antvisionps.panoptic.png import decode_labels
from antvisionps.panoptic.segments import PanopticImage

REMEDY = "give a COCO instances JSON, or `convert panoptic` where it is a panoptic one"


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """A split: its JSON, the folder of its photos, the folder of semantic PNGs whose labels are category ids."""

    annotations: Path
    photos: Path
    semantic: Path | None = None


def read_coco(splits: dict[str, CocoFiles], wanted: Wanted, *, keeps_crowds: bool = True) -> SourceSet:
    """Raises DataError on splits of different categories, and on what breaks the format; photos have to be there."""
    sets = {name: _categories(files.annotations, wanted) for name, files in splits.items()}
    first, *others = sets
    for other in others:
        if sets[other] != sets[first]:
            raise DataError(
                f"{splits[other].annotations}: other categories than in {splits[first].annotations}; give both the same"
            )
    images = {name: _read_split(files, sets[first], keeps_crowds) for name, files in splits.items()}
    return SourceSet(sets[first], images)


def _categories(path: Path, wanted: Wanted) -> CategorySet:
    rows = list(read_rows(path, "categories", remedy=REMEDY))
    if strange := [row for row in rows if not isinstance(row, dict)]:
        raise DataError(f"{path}: expected categories with id and name, got {str(strange[0])[:80]}; {REMEDY}")
    return wanted.of_rows(rows, where=str(path))


def _read_split(files: CocoFiles, categories: CategorySet, keeps_crowds: bool) -> list[SourceImage]:
    images = list(_images(files, categories))
    refuse_duplicates((image.image_id for image in images), "image id", str(files.annotations))
    sizes = {one.image_id: PanopticImage(0, "", "", one.height, one.width, ()) for one in images}
    reader = AnnotationReader(files.annotations, sizes, frozenset(categories.category_ids.tolist()), remedy=REMEDY)
    found = reader.read()
    if not keeps_crowds:
        found = {name: [(category, False, rle) for category, _, rle in rows] for name, rows in found.items()}
    return [
        SourceImage(one.image_id, one.photo, one.height, one.width, tuple(found.get(one.image_id, ())), one.read_map)
        for one in images
    ]
