"""COCO's instance annotations beside a panoptic data set: read, checked, and written as `prepare` keeps them.

The JSON of COCO's train2017 has 860,000 instances in 470 MB. It is read one annotation at a time, and what is kept of
each is its mask as run lengths. Format: https://cocodataset.org/#format-data.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from antvisionps.core.errors import DataError
from antvisionps.core.json_files import iterate_json
from antvisionps.core.progress import progress
from antvisionps.panoptic.categories import CategorySet, json_flag
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import compress_counts
from antvisionps.panoptic.segments import PanopticImage

Instance = tuple[int, bool, bytes]
"""category_id, whether it is a crowd, COCO compressed counts."""


def write_coco_instances(annotations: Path, files: Mapping[Path, PanopticDataset]) -> str:
    """Writes the instances of each split's images to its file; returns the sha256 (hex) of what they are.

    `files` are the splits of one panoptic data set. Raises DataError on a JSON that is missing, broken or no COCO
    instances, on an image of the splits that it does not list or lists in another size, and on an instance of an
    unknown image, of a category that is no thing, or whose segmentation is neither polygons nor run lengths of the
    image.
    """
    categories = next(iter(files.values())).categories
    images = {image.image_id: image for dataset in files.values() for image in dataset.images}
    instances = _read_instances(annotations, images, categories)
    digest = hashlib.sha256()
    for path, dataset in files.items():
        of_image = {image.image_id: instances.get(image.image_id, []) for image in dataset.images}
        write_gt_instances(path, ((image_id, GtInstances.of(found)) for image_id, found in of_image.items()))
        for image_id, found in of_image.items():
            for category_id, is_crowd, rle in found:
                digest.update(json.dumps([image_id, category_id, is_crowd, rle.decode()]).encode())
    return digest.hexdigest()


def _read_instances(
    path: Path, images: Mapping[int, PanopticImage], categories: CategorySet
) -> Mapping[int, list[Instance]]:
    for row in _rows(path, "categories"):
        _check_category(path, row, categories)
    listed = {_check_image(path, row, images) for row in _rows(path, "images")}
    if missing := sorted(images.keys() - listed):
        raise DataError(
            f"{path}: image {missing[0]} of the panoptic annotations ({len(missing)} like it) is not among `images`; "
            "give the instances of the same images, or set prepare.instances to panoptic"
        )
    instances: defaultdict[int, list[Instance]] = defaultdict(list)
    seen: set[int] = set()
    for row in progress(_rows(path, "annotations"), description=f"read {path.name}", total=None, unit="row"):
        annotation_id, image_id, instance = _parse_annotation(path, row, images, categories)
        if annotation_id in seen:
            raise DataError(f"{path}: annotation {annotation_id} is there twice; every one must be unique")
        seen.add(annotation_id)
        instances[image_id].append(instance)
    return instances


def _rows(path: Path, key: str) -> Iterator[Any]:
    """The elements of a list of the JSON object, one at a time: whole, COCO's takes 3 GB."""
    remedy = "check prepare.instances in params.yaml, or fetch the file again"
    row = None
    for row in iterate_json(path, f"{key}.item", what="COCO instances JSON", remedy=remedy, error=DataError):
        yield row
    if row is None:
        raise DataError(f"{path}: expected rows under {key!r}, got none; is this a COCO instances JSON?")


def _check_image(path: Path, row: Any, images: Mapping[int, PanopticImage]) -> int:
    image_id = _whole(row, "id", f"{path}: an image")
    image = images.get(image_id)
    if image is not None and (row.get("height"), row.get("width")) != (image.height, image.width):
        raise DataError(
            f"{path}: image {image_id}: expected {image.width}x{image.height} pixels (width x height) as in the "
            f"panoptic annotations, got {row.get('width')}x{row.get('height')}; give the instances of the same images"
        )
    return image_id


def _check_category(path: Path, row: Any, categories: CategorySet) -> None:
    category_id = _whole(row, "id", f"{path}: a category")
    if category_id in categories and row.get("name") != categories.by_id(category_id).name:
        raise DataError(
            f"{path}: category {category_id}: expected the name {categories.by_id(category_id).name!r} as in the "
            f"panoptic annotations, got {row.get('name')!r}; give both the same numbers"
        )


def _parse_annotation(
    path: Path, row: Any, images: Mapping[int, PanopticImage], categories: CategorySet
) -> tuple[int, int, Instance]:
    annotation_id = _whole(row, "id", f"{path}: an annotation")
    where = f"{path}: annotation {annotation_id}"
    image_id, category_id = _whole(row, "image_id", where), _whole(row, "category_id", where)
    if image_id not in images:
        raise DataError(f"{where}: image {image_id} is not in the panoptic annotations; remove its instances")
    where = f"{where} of image {image_id}"
    if category_id not in categories or not categories.by_id(category_id).is_thing:
        raise DataError(f"{where}: expected a category that is a thing, got {category_id}; remove or renumber it")
    try:
        is_crowd = json_flag(row.get("iscrowd"))
    except ValueError as error:
        raise DataError(f"{where}: iscrowd: {error}") from error
    try:
        rle = _encode(row.get("segmentation"), images[image_id])
    except ValueError as error:
        raise DataError(f"{where}: segmentation: {error}; correct or remove it") from error
    return annotation_id, image_id, (category_id, is_crowd, rle)


def _whole(row: Any, key: str, where: str) -> int:
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is not int:
        raise DataError(f"{where}: expected {key!r} to be a whole number, got {str(value)[:80]!r}")
    return value


def _encode(segmentation: Any, image: PanopticImage) -> bytes:
    """COCO compressed counts. Raises ValueError on what is neither polygons nor run lengths of the image."""
    if isinstance(segmentation, list):
        return _encode_polygons(segmentation, image)
    if not isinstance(segmentation, dict):
        raise ValueError(f"expected polygons or {{size, counts}}, got {str(segmentation)[:80]}")
    if segmentation.get("size") != [image.height, image.width]:
        raise ValueError(f"expected run lengths of size {[image.height, image.width]}, got {segmentation.get('size')}")
    return compress_counts(segmentation.get("counts"), height=image.height, width=image.width)


def _encode_polygons(polygons: list[Any], image: PanopticImage) -> bytes:
    if not polygons:
        raise ValueError("expected at least one polygon, got none")
    for polygon in polygons:
        _check_polygon(polygon, image)
    rles = coco_mask.frPyObjects(polygons, image.height, image.width)
    merged: bytes = coco_mask.merge(rles)["counts"]
    return merged


def _check_polygon(polygon: Any, image: PanopticImage) -> None:
    """Corners a little outside are cut off, as COCO has them; far ones would take any amount of memory."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"expected polygons [x, y, x, y, x, y, ...], got {str(polygon)[:80]}")
    for corners, side in ((polygon[0::2], image.width), (polygon[1::2], image.height)):
        for value in corners:
            if type(value) not in (int, float) or not math.isfinite(value) or not -side <= value <= 2 * side:
                raise ValueError(f"expected corners in the image of {image.width}x{image.height} px, got {value!r}")
