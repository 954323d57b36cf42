"""The COCO panoptic format: one JSON a split, one RGB PNG an image (segment id = R + 256 G + 256² B, 0 = void).

`read_panoptic` validates; code behind it trusts what it returns. Format: https://cocodataset.org/#format-data.
"""

import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.core.json_files import read_json
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet, json_flag, refuse_duplicates
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import MAX_SEGMENT_ID
from antvisionps.panoptic.segments import PanopticImage, Segment


@contextmanager
def _collector_paused() -> Iterator[None]:
    """While millions of small objects are made and none is garbage, looking for some takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_collector_paused()
def read_panoptic(annotations: Path, *, images_dir: Path, panoptic_dir: Path) -> PanopticDataset:
    """A split from its JSON, checked in itself; `check_files` tells whether its files are there.

    Raises DataError on a missing or broken JSON, a missing key, an empty split, a duplicate image id, file name or
    segment id, an unknown category, an image without annotation or the reverse.
    """
    remedy = "check the paths in params.yaml, or fetch the file again"
    document = read_json(annotations, what="COCO panoptic JSON", remedy=remedy, error=DataError)
    if not isinstance(document, dict):
        raise DataError(f"{annotations}: expected a JSON object, got a {type(document).__name__}; {remedy}")
    where = str(annotations)
    categories = CategorySet.from_json(_list_of(document, "categories", where), where=where)
    annotation_of = _annotations_by_image(_list_of(document, "annotations", where), where)
    images = [_parse_image(row, annotation_of, categories, where) for row in _list_of(document, "images", where)]
    if not images:
        raise DataError(f"{where}: expected at least one image, got none; this split is empty")
    images.sort(key=lambda image: image.image_id)
    refuse_duplicates((image.image_id for image in images), "image id", where)
    refuse_duplicates((image.file_name for image in images), "file name", where)
    refuse_duplicates((image.panoptic_file_name for image in images), "panoptic file name", where)
    if len(annotation_of) > len(images):
        stray = min(annotation_of.keys() - {image.image_id for image in images})
        raise DataError(f"{where}: an annotation is for image {stray}, which `images` does not list; add or remove it")
    return PanopticDataset(annotations, images_dir, panoptic_dir, categories, tuple(images))


@_collector_paused()
def write_panoptic_json(path: Path, *, categories: CategorySet, images: Iterable[PanopticImage]) -> None:
    """Writes a split in COCO's layout; the same split gives the same bytes."""
    images = sorted(images, key=lambda image: image.image_id)
    document = {
        "images": [
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": [
            {
                "image_id": image.image_id,
                "file_name": image.panoptic_file_name,
                "segments_info": [_segment_to_json(segment) for segment in image.segments],
            }
            for image in images
        ],
        "categories": categories.to_json(),
    }
    with atomic_file(path) as unfinished:
        # dumps, not dump: only the former uses json's C encoder, three times as fast.
        unfinished.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.segment_id,
        "category_id": segment.category_id,
        "area": segment.area_px,
        "bbox": list(segment.bbox_xywh),
        "iscrowd": int(segment.is_crowd),
    }


def _list_of(document: Mapping[str, Any], key: str, where: str) -> list[Any]:
    rows = document.get(key)
    if not isinstance(rows, list):
        got = "no such key" if key not in document else f"a {type(rows).__name__}"
        raise DataError(f"{where}: expected a list under {key!r}, got {got}; is this a COCO panoptic JSON?")
    return rows


def _annotations_by_image(rows: list[Any], where: str) -> dict[int, Mapping[str, Any]]:
    annotation_of: dict[int, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        image_id = _field(row, "image_id", int, f"{where}: annotation {position}")
        if image_id in annotation_of:
            raise DataError(f"{where}: image {image_id} has two annotations; keep one")
        annotation_of[image_id] = row
    return annotation_of


def _parse_image(
    row: Any, annotation_of: Mapping[int, Mapping[str, Any]], categories: CategorySet, where: str
) -> PanopticImage:
    image_id = _field(row, "id", int, f"{where}: an image")
    where = f"{where}: image {image_id}"
    height, width = _field(row, "height", int, where), _field(row, "width", int, where)
    if height < 1 or width < 1:
        raise DataError(f"{where}: expected a height and width of at least 1, got {height}x{width}")
    if image_id not in annotation_of:
        raise DataError(f"{where}: no annotation for this image; add one or remove the image")
    annotation = annotation_of[image_id]
    segments = tuple(
        _parse_segment(info, categories, where) for info in _field(annotation, "segments_info", list, where)
    )
    refuse_duplicates((segment.segment_id for segment in segments), "segment id", where)
    return PanopticImage(
        image_id=image_id,
        file_name=_field(row, "file_name", str, where),
        panoptic_file_name=_field(annotation, "file_name", str, where),
        height=height,
        width=width,
        segments=segments,
    )


def _parse_segment(row: Any, categories: CategorySet, where: str) -> Segment:
    try:
        segment_id, category_id, bbox = row["id"], row["category_id"], row["bbox"]
        x, y, width, height = map(int, bbox)
        segment = Segment(segment_id, category_id, int(row["area"]), (x, y, width, height), json_flag(row["iscrowd"]))
        is_known = type(category_id) is int and category_id in categories
        is_sound = is_known and type(segment_id) is int and type(bbox) is list
        if is_sound and VOID_SEGMENT_ID < segment_id <= MAX_SEGMENT_ID:
            return segment
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise _what_is_wrong(row, categories, where)


def _what_is_wrong(row: Any, categories: CategorySet, where: str) -> DataError:
    """With a segment that cannot be read; asked only then, as there are a million of segments."""
    segment_id = _field(row, "id", int, f"{where}: a segment")
    where = f"{where}: segment {segment_id}"
    if not VOID_SEGMENT_ID < segment_id <= MAX_SEGMENT_ID:
        return DataError(f"{where}: expected an id from 1 to {MAX_SEGMENT_ID} (0 is void); renumber it, PNG and JSON")
    category_id = _field(row, "category_id", int, where)
    if category_id not in categories:
        return DataError(f"{where}: unknown category {category_id}; `categories` does not list it")
    return DataError(f"{where}: expected area, bbox [x, y, width, height] and iscrowd (0 or 1), got {row}")


def _field(row: Any, key: str, kind: type, where: str) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is not kind:
        raise DataError(f"{where}: expected {key!r} to be of type {kind.__name__}, got {value!r}")
    return value
