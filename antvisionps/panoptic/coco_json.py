"""The COCO panoptic format: one JSON a split, one RGB PNG an image (segment id = R + 256 G + 256² B, 0 = void).

`read_panoptic` validates; code behind it trusts what it returns. Format: https://cocodataset.org/#format-data.
"""

import gc
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.core.json_files import read_json
from antvisionps.core.skipped import SkippedRows
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet, json_flag, refuse_duplicates
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import (
    ImageId,
    number_ids,
    one_line,
    parse_category_id,
    parse_image_id,
    refuse_other_kind,
    whole_number,
)
from antvisionps.panoptic.png import MAX_SEGMENT_ID
from antvisionps.panoptic.segments import UNKNOWN_AREA_PX, UNKNOWN_BBOX_XYWH, PanopticImage, Segment

MAX_AREA_PX = 2**31 - 1
"""Areas are kept in 32 bits."""

_REMEDY = "check the paths in params.yaml, or fetch the file again"

Value = TypeVar("Value")


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
def read_panoptic(
    annotations: Path, *, images_dir: Path, panoptic_dir: Path, is_foreign: bool = False, needs_truth: bool = True
) -> PanopticDataset:
    """A split from its JSON, checked in itself; `check_files` tells whether its files are there.

    Of a foreign JSON, one that another tool wrote, what the maps tell may be left out (PanopticDataset.measure fills it
    in), and images without annotation and annotations without image are skipped with a warning. Where no truth is
    needed, all images of a JSON without any annotation are there, and have no segments.

    Raises DataError on a missing or broken JSON, a missing key, an empty split, a duplicate image id, file name or
    segment id, an unknown category, an image without annotation or the reverse.
    """
    document = read_json(annotations, what="COCO panoptic JSON", remedy=_REMEDY, error=DataError)
    where = str(annotations)
    if not isinstance(document, dict):
        raise DataError(f"{where}: expected a JSON object, got a {type(document).__name__}; {_REMEDY}")
    if not needs_truth:
        document = {"annotations": []} | document
    annotation_rows, image_rows = (_list_of(document, key, where) for key in ("annotations", "images"))
    _refuse_instances_json(annotation_rows, where)
    categories = CategorySet.from_json(_list_of(document, "categories", where), where=where)
    row_of = _rows_by_image(image_rows, where)
    annotation_of = _annotations_by_image(annotation_rows, row_of, where)
    if not needs_truth and not annotation_of:
        annotation_of = {image_id: _without_segments(row) for image_id, row in row_of.items()}
    _leave_out_single(row_of, annotation_of, where, is_foreign)
    parse_row = partial(parse_segment, categories=categories, is_foreign=is_foreign)
    images = tuple(
        _parse_image(number, image_id, row_of[image_id], annotation_of[image_id], parse_row, where)
        for image_id, number in number_ids(row_of).items()
    )
    refuse_duplicates((image.file_name for image in images), "file name", where)
    refuse_duplicates((image.panoptic_file_name for image in images), "panoptic file name", where)
    return PanopticDataset(annotations, images_dir, panoptic_dir, categories, images)


@_collector_paused()
def write_panoptic_json(path: Path, *, categories: CategorySet, images: Iterable[PanopticImage]) -> None:
    """Writes a split in COCO's layout, with the data set's own image ids; the same split gives the same bytes."""
    images = sorted(images, key=lambda image: image.image_id)
    document = {
        "images": [
            {"id": image.source_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": [
            {
                "image_id": image.source_id,
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


def _refuse_instances_json(rows: list[Any], where: str) -> None:
    first = rows[0] if rows else None
    if isinstance(first, dict) and "segmentation" in first and "segments_info" not in first:
        raise DataError(
            f"{where}: expected a COCO panoptic JSON, got a COCO instances JSON: its annotations have `segmentation` "
            "and no `segments_info`; convert it with `antvisionps convert coco`, and "
            "name it itself in prepare.instances"
        )


def _rows_by_image(rows: list[Any], where: str) -> dict[ImageId, Any]:
    """The data set's own id → its row in `images`."""
    row_of: dict[ImageId, Any] = {}
    for position, row in enumerate(rows):
        image_id = parse_own_id(row, "id", row_of, f"{where}: image at position {position}")
        if image_id in row_of:
            raise DataError(f"{where}: image id {image_id!r} appears twice; every one must be unique")
        row_of[image_id] = row
    if not row_of:
        raise DataError(f"{where}: expected at least one image, got none; this split is empty")
    return row_of


def _annotations_by_image(rows: list[Any], row_of: Mapping[ImageId, Any], where: str) -> dict[ImageId, Any]:
    annotation_of: dict[ImageId, Any] = {}
    for position, row in enumerate(rows):
        image_id = parse_own_id(row, "image_id", row_of, f"{where}: annotation {position}")
        if image_id in annotation_of:
            raise DataError(f"{where}: image {image_id} has two annotations; keep one")
        annotation_of[image_id] = row
    return annotation_of


def _without_segments(image_row: Mapping[str, Any]) -> dict[str, Any]:
    """An annotation of an image that nobody annotated, of the map that may be predicted of it."""
    return {"file_name": f"{os.path.splitext(str(image_row.get('file_name')))[0]}.png", "segments_info": []}


def _leave_out_single(
    row_of: dict[ImageId, Any], annotation_of: dict[ImageId, Any], where: str, is_foreign: bool
) -> None:
    """Removes images without annotation and annotations without image; raises DataError on them, or where none is
    left."""
    unannotated = [image_id for image_id in row_of if image_id not in annotation_of]
    stray = [image_id for image_id in annotation_of if image_id not in row_of]
    if not is_foreign and unannotated:
        raise DataError(f"{where}: image {unannotated[0]}: no annotation for this image; add one or remove the image")
    if not is_foreign and stray:
        raise DataError(f"{where}: an annotation is for image {stray[0]}, which `images` does not list; {_REMEDY}")
    skipped = SkippedRows(where)
    for image_id in unannotated:
        skipped.add("images without annotation are skipped", f"image {image_id}")
        del row_of[image_id]
    for image_id in stray:
        skipped.add("annotations of images that `images` does not list are skipped", f"image {image_id}")
        del annotation_of[image_id]
    if not row_of:
        raise DataError(f"{where}: expected at least one image with an annotation, got none; {_REMEDY}")
    skipped.tell()


def _parse_image(
    number: int, image_id: ImageId, row: Any, annotation: Any, parse_row: Callable[[Any, str], Segment], where: str
) -> PanopticImage:
    where = f"{where}: image {image_id}"
    height, width = (parse_value(row, key, whole_number, where) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise DataError(f"{where}: expected a height and width of at least 1, got {height}x{width}")
    if height * width > MAX_AREA_PX:
        raise DataError(f"{where}: expected at most {MAX_AREA_PX} pixels, got a height and width of {height}x{width}")
    segments = tuple(parse_row(info, where) for info in _field(annotation, "segments_info", list, where))
    refuse_duplicates((segment.segment_id for segment in segments), "segment id", where)
    return PanopticImage(
        image_id=number,
        file_name=parse_value(row, "file_name", one_line, where),
        panoptic_file_name=parse_value(annotation, "file_name", one_line, f"{where}: annotation"),
        height=height,
        width=width,
        segments=segments,
        given_id=None if image_id == number else image_id,
    )


def parse_segment(row: Any, where: str, *, categories: CategorySet, is_foreign: bool) -> Segment:
    """A row of segments_info, of a foreign JSON also one that lacks what its map tells. Raises DataError."""
    segment_id = parse_value(row, "id", whole_number, f"{where}: a segment")
    where = f"{where}: segment {segment_id}"
    if not VOID_SEGMENT_ID < segment_id <= MAX_SEGMENT_ID:
        raise DataError(f"{where}: expected an id from 1 to {MAX_SEGMENT_ID} (0 is void); renumber it, PNG and JSON")
    category_id = parse_value(row, "category_id", parse_category_id, where)
    if category_id not in categories:
        raise DataError(f"{where}: unknown category {category_id}; `categories` does not list it")
    is_told = {key: not is_foreign or row.get(key) is not None for key in ("area", "bbox", "iscrowd")}
    return Segment(
        segment_id,
        category_id,
        parse_value(row, "area", _parse_area, where) if is_told["area"] else UNKNOWN_AREA_PX,
        parse_value(row, "bbox", _parse_bbox, where) if is_told["bbox"] else UNKNOWN_BBOX_XYWH,
        is_told["iscrowd"] and parse_value(row, "iscrowd", json_flag, where),
    )


def _parse_area(value: object) -> int:
    area_px = whole_number(value)
    if area_px < 0:
        raise ValueError(f"expected a number of pixels, got {area_px}")
    return area_px


def _parse_bbox(value: object) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = map(int, value if isinstance(value, list) else [])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected [x, y, width, height], got {str(value)[:80]}") from None
    return x, y, width, height


def parse_own_id(row: Any, key: str, known: Collection[ImageId], where: str) -> ImageId:
    """The data set's own id of an image. Raises DataError on none, and on text among numbers or the reverse."""
    image_id = parse_value(row, key, parse_image_id, where)
    try:
        refuse_other_kind(image_id, known)
    except ValueError as error:
        raise DataError(f"{where}: {key} {error}") from error
    return image_id


def parse_value(row: Any, key: str, parse: Callable[[Any], Value], where: str) -> Value:
    """What `parse` makes of the value. Raises DataError where it is missing or `parse` raises ValueError."""
    value = row.get(key) if isinstance(row, dict) else None
    try:
        return parse(value)
    except ValueError as error:
        raise DataError(f"{where}: {key}: {error}; correct it") from error


def _field(row: Any, key: str, kind: type, where: str) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is not kind:
        raise DataError(f"{where}: expected {key!r} to be of type {kind.__name__}, got {str(value)[:80]!r}")
    return value
