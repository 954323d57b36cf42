"""COCO's instance annotations beside a panoptic data set: read and checked as `prepare` keeps them.

The JSON of COCO's train2017 has 860,000 instances in 470 MB. It is read one annotation at a time, and what is kept of
each is its mask as run lengths. Format: https://cocodataset.org/#format-data.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.errors import DataError
from antvisionps.core.json_files import iterate_json
from antvisionps.core.progress import progress
from antvisionps.core.skipped import SkippedRows
from antvisionps.panoptic.categories import CategorySet, json_flag
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import Instance
from antvisionps.panoptic.ids import ImageId, parse_category_id, parse_image_id, refuse_other_kind, whole_number
from antvisionps.panoptic.rle import compress_counts
from antvisionps.panoptic.segments import PanopticImage

Value = TypeVar("Value")

_NUMBERS = frozenset({int, float})


def read_coco_instances(path: Path, dataset: PanopticDataset) -> Mapping[ImageId, list[Instance]]:
    """The instances of the images of a panoptic data set that have any, by the data set's own ids.

    `area` and `bbox` are the mask's, whatever the file says; without `iscrowd` an instance is no crowd. Instances of
    other images and those without a pixel are skipped with a warning, as are polygons without area.

    Raises DataError on a JSON that is missing, broken or no COCO instances, on an image of the data set that it does
    not list or lists in another size, and on an instance of a category that is no thing, or whose segmentation is
    neither polygons nor run lengths of the image.
    """
    images = {image.source_id: image for image in dataset.images}
    for row in _rows(path, "categories"):
        _check_category(path, row, dataset.categories)
    listed = {_check_image(path, row, images) for row in _rows(path, "images")}
    if missing := [image_id for image_id in images if image_id not in listed]:
        raise DataError(
            f"{path}: image {missing[0]} of the panoptic annotations ({len(missing)} like it) is not among `images`; "
            "give the instances of the same images, or set prepare.instances to panoptic"
        )
    reader = _AnnotationReader(path, images, dataset.categories)
    for row in progress(_rows(path, "annotations"), description=f"read {path.name}", total=None, unit="row"):
        reader.add(row)
    return reader.finish()


class _AnnotationReader:
    """Takes the annotations one by one."""

    def __init__(self, path: Path, images: Mapping[ImageId, PanopticImage], categories: CategorySet) -> None:
        self._path, self._images, self._categories = path, images, categories
        self._skipped = SkippedRows(str(path))
        self._seen: set[ImageId] = set()
        self._num_rows = 0
        self._instances: defaultdict[ImageId, list[Instance]] = defaultdict(list)

    def add(self, row: Any) -> None:
        name = self._name(row)
        image_id = _image_id(row, "image_id", self._images, f"{self._path}: {name}")
        if image_id not in self._images:
            self._skipped.add("annotations of images without panoptic annotation are skipped", f"image {image_id}")
            return
        name = f"{name} of image {image_id}"
        where = f"{self._path}: {name}"
        category_id = _parse(row, "category_id", parse_category_id, where)
        if category_id not in self._categories or not self._categories.by_id(category_id).is_thing:
            raise DataError(f"{where}: expected a category that is a thing, got {category_id}; remove or renumber it")
        is_crowd = row.get("iscrowd") is not None and _parse(row, "iscrowd", json_flag, where)
        try:
            rle = self._encode(row.get("segmentation"), self._images[image_id], name)
        except ValueError as error:
            raise DataError(f"{where}: segmentation: {error}; correct or remove it") from error
        if rle is None:
            self._skipped.add("annotations without a pixel are skipped", name)
        else:
            self._instances[image_id].append((category_id, is_crowd, rle))

    def finish(self) -> Mapping[ImageId, list[Instance]]:
        """Raises DataError where there is none."""
        if not self._instances:
            raise DataError(
                f"{self._path}: none of its {self._num_rows} annotations is an instance of an image of the panoptic "
                "annotations; give the instances of the same images, or set prepare.instances to panoptic"
            )
        self._skipped.tell()
        return self._instances

    def _name(self, row: Any) -> str:
        """`annotation 3`; an id only names it here, so it may be text, or absent."""
        self._num_rows += 1
        if not isinstance(row, dict):
            raise DataError(f"{self._path}: expected annotations that are objects, got {str(row)[:80]}")
        if "segments_info" in row:
            raise DataError(
                f"{self._path}: expected a COCO instances JSON, got a COCO panoptic JSON: its annotations have "
                "`segments_info` and no `segmentation`; set prepare.instances to panoptic, or name the other file"
            )
        if row.get("id") is None:
            return f"annotation at position {self._num_rows - 1}"
        annotation_id = _parse(row, "id", parse_image_id, f"{self._path}: an annotation")
        if annotation_id in self._seen:
            raise DataError(f"{self._path}: annotation {annotation_id} is there twice; every one must be unique")
        self._seen.add(annotation_id)
        return f"annotation {annotation_id}"

    def _encode(self, segmentation: Any, image: PanopticImage, name: str) -> bytes | None:
        """COCO compressed counts, None without a pixel. Raises ValueError on what is neither polygons nor run lengths
        of the image."""
        if segmentation is None or segmentation == []:
            return None
        if isinstance(segmentation, list):
            if type(segmentation[0]) in _NUMBERS:
                start = str(segmentation)[:80]
                raise ValueError(f"expected a list of polygons, [[x, y, x, y, ...]], got a flat one, {start}")
            polygons = [polygon for polygon in segmentation if _has_area(polygon, image)]
            if 0 < len(polygons) < len(segmentation):
                self._skipped.add("annotations have polygons without area, which are left out", name)
            return _encode_polygons(polygons, image) if polygons else None
        if not isinstance(segmentation, dict):
            raise ValueError(f"expected polygons or {{size, counts}}, got {str(segmentation)[:80]}")
        if segmentation.get("size") != [image.height, image.width]:
            size = [image.height, image.width]
            raise ValueError(f"expected run lengths of size {size}, got {segmentation.get('size')}")
        return _non_empty(compress_counts(segmentation.get("counts"), height=image.height, width=image.width), image)


def _rows(path: Path, key: str) -> Iterator[Any]:
    """The elements of a list of the JSON object, one at a time: whole, COCO's takes 3 GB."""
    remedy = "check prepare.instances in params.yaml, or fetch the file again"
    row = None
    for row in iterate_json(path, f"{key}.item", what="COCO instances JSON", remedy=remedy, error=DataError):
        yield row
    if row is None:
        raise DataError(f"{path}: expected rows under {key!r}, got none; is this a COCO instances JSON?")


def _check_image(path: Path, row: Any, images: Mapping[ImageId, PanopticImage]) -> ImageId:
    """Its id; its size has to be that of the panoptic annotations where it tells one."""
    image_id = _image_id(row, "id", images, f"{path}: an image")
    image = images.get(image_id)
    if image is None:
        return image_id
    height, width = (
        side if row.get(key) is None else _parse(row, key, whole_number, f"{path}: image {image_id}")
        for key, side in (("height", image.height), ("width", image.width))
    )
    if (height, width) != (image.height, image.width):
        raise DataError(
            f"{path}: image {image_id}: expected {image.width}x{image.height} pixels (width x height) as in the "
            f"panoptic annotations, got {width}x{height}; give the instances of the same images"
        )
    return image_id


def _check_category(path: Path, row: Any, categories: CategorySet) -> None:
    category_id = _parse(row, "id", parse_category_id, f"{path}: a category")
    if category_id in categories and str(row.get("name")) != categories.by_id(category_id).name:
        raise DataError(
            f"{path}: category {category_id}: expected the name {categories.by_id(category_id).name!r} as in the "
            f"panoptic annotations, got {row.get('name')!r}; give both the same numbers"
        )


def _image_id(row: Any, key: str, images: Mapping[ImageId, PanopticImage], where: str) -> ImageId:
    image_id = _parse(row, key, parse_image_id, where)
    try:
        refuse_other_kind(image_id, images)
    except ValueError as error:
        raise DataError(f"{where}: {key} {error}") from error
    return image_id


def _parse(row: Any, key: str, parse: Callable[[Any], Value], where: str) -> Value:
    """What `parse` makes of the value. Raises DataError where it is missing or `parse` raises ValueError."""
    try:
        return parse(row.get(key) if isinstance(row, dict) else None)
    except ValueError as error:
        raise DataError(f"{where}: {key}: {error}; correct it") from error


def _encode_polygons(polygons: list[Any], image: PanopticImage) -> bytes | None:
    rles = coco_mask.frPyObjects(polygons, image.height, image.width)
    return _non_empty(coco_mask.merge(rles)["counts"], image)


def _non_empty(counts: bytes, image: PanopticImage) -> bytes | None:
    return counts if coco_mask.area({"size": [image.height, image.width], "counts": counts}) else None


def _has_area(polygon: Any, image: PanopticImage) -> bool:
    """Not a point or a line. Raises ValueError on what is no polygon.

    Corners a little outside are cut off, as COCO has them; far ones would take any amount of memory.
    """
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError(f"expected polygons [x, y, x, y, x, y, ...], got {str(polygon)[:80]}")
    if not _NUMBERS.issuperset(map(type, polygon)):
        raise ValueError(f"expected corners that are numbers, got {str(polygon)[:80]}")
    for corners, side in ((polygon[0::2], image.width), (polygon[1::2], image.height)):
        low, high = min(corners, default=0), max(corners, default=0)
        if not (-side <= low and high <= 2 * side and math.isfinite(sum(corners))):  # min and max may pass over a NaN
            raise ValueError(f"expected corners in the image of {image.width}x{image.height} px, got {low} to {high}")
    return len(polygon) >= 6 and not _is_line(polygon)


def _is_line(polygon: list[float]) -> bool:
    x, y, x1, y1, x2, y2 = polygon[:6]
    if (x1 - x) * (y2 - y) != (x2 - x) * (y1 - y):
        return False
    corners = np.reshape(polygon, (-1, 2))
    return bool(np.linalg.matrix_rank(corners - corners[0]) < 2)
