"""COCO's instance annotations beside a panoptic data set: read, checked, and written as `prepare` keeps them.

The JSON of COCO's train2017 has 860,000 instances in 470 MB. It is read one annotation at a time, and what is kept of
each is its mask as run lengths. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.errors import DataError
from antvisionps.core.progress import progress
from antvisionps.panoptic.categories import CategorySet, json_flag
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import parse_runs
from antvisionps.panoptic.segments import PanopticImage

Instance = tuple[int, bool, bytes]
"""category_id, whether it is a crowd, COCO compressed counts."""

_SPACE = re.compile(r"[ \t\n\r]*")


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
        write_gt_instances(
            path, ((image.image_id, _gathered(instances.get(image.image_id, []))) for image in dataset.images)
        )
        for image in dataset.images:
            for category_id, is_crowd, rle in instances.get(image.image_id, []):
                digest.update(json.dumps([image.image_id, category_id, is_crowd, rle.decode()]).encode())
    return digest.hexdigest()


def _gathered(instances: Iterable[Instance]) -> GtInstances:
    rows = list(instances)
    return GtInstances(
        np.array([category_id for category_id, _, _ in rows], dtype=np.int32),
        [rle for _, _, rle in rows],
        np.array([is_crowd for _, is_crowd, _ in rows], dtype=bool),
    )


def _read_instances(
    path: Path, images: Mapping[int, PanopticImage], categories: CategorySet
) -> Mapping[int, list[Instance]]:
    instances: defaultdict[int, list[Instance]] = defaultdict(list)
    listed: set[int] = set()
    seen: set[int] = set()
    found: set[str] = set()
    for key, row in progress(_rows(path), description=f"read {path.name}", total=None, unit="row"):
        found.add(key)
        if key == "images":
            listed.add(_check_image(path, row, images))
        elif key == "categories":
            _check_category(path, row, categories)
        elif key == "annotations":
            annotation_id, image_id, instance = _parse_annotation(path, row, images, categories)
            if annotation_id in seen:
                raise DataError(f"{path}: annotation {annotation_id} is there twice; every one must be unique")
            seen.add(annotation_id)
            instances[image_id].append(instance)
    for key in ("images", "annotations", "categories"):
        if key not in found:
            raise DataError(f"{path}: expected rows under {key!r}, got none; is this a COCO instances JSON?")
    if missing := sorted(images.keys() - listed):
        raise DataError(
            f"{path}: image {missing[0]} of the panoptic annotations ({len(missing)} like it) is not among `images`; "
            "give the instances of the same images, or set prepare.instances to panoptic"
        )
    return instances


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element) of every list in the JSON object, one at a time: whole, COCO's takes 3 GB."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file; check prepare.instances in params.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: annotation file cannot be read: {error}") from error
    try:
        yield from _JsonCursor(text).elements_of_lists()
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: broken or truncated JSON ({error}); fetch the file again") from error


class _JsonCursor:
    """A place in a JSON text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def elements_of_lists(self) -> Iterator[tuple[str, Any]]:
        """(key, element) of every list that is a value of the object here."""
        self._take("{")
        while True:
            key = self._value()
            self._take(":")
            if self._peek() == "[":
                yield from ((key, element) for element in self._elements())
            else:
                self._value()
            if self._peek() != ",":
                break
            self._take(",")
        self._take("}")

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != ",":
                break
            self._take(",")
        self._take("]")

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise json.JSONDecodeError(f"Expecting {character!r}", self._text, self._at)
        self._at += 1

    def _value(self) -> Any:
        self._peek()
        value, self._at = self._decode(self._text, self._at)
        return value


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
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        return _encode_counts(counts, image)
    if not isinstance(counts, str):
        raise ValueError(f"expected counts to be a list or a string, got {str(counts)[:80]}")
    rle = counts.encode()
    parse_runs([rle], height=image.height, width=image.width)
    return rle


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


def _encode_counts(counts: list[Any], image: PanopticImage) -> bytes:
    pixels = image.height * image.width
    if not all(type(length) is int and length >= 0 for length in counts) or sum(counts) != pixels:
        raise ValueError(f"expected run lengths of {pixels} px, got {str(counts)[:80]}")
    size = [image.height, image.width]
    rle: bytes = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    return rle
