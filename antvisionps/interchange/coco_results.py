"""Instances in COCO's results format: one JSON list, a row each. https://cocodataset.org/#format-results."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.input_files import open_file
from antvisionps.core.json_files import iterate_json
from antvisionps.interchange.image_names import ImageFinder
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.probability_files import ROUNDING_ABOVE_ONE
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.polygons import encode_polygons, has_area, is_flat
from antvisionps.panoptic.rle import compress_counts
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances

PEEK_BYTES = 64
"""At the start of a JSON, to see whether it is a list or an object."""

BOX_ROUNDING_PX = 2.0
"""By which a detector's box may miss its mask's."""

MAX_COORDINATE_PX = 2.0**31

Instance = tuple[int, float, tuple[float, ...], bytes]
"""category_id, score, bbox_xywh, COCO compressed counts."""


def read_coco_results(path: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageInstances]:
    """Every image of the split, in ascending image_id; one that the file does not name has no instance.

    Masks are RLEs, compressed or not, at the photo's size, or polygons; a bbox that is missing or has no area is the
    mask's. Raises PredictionsError on an image or category that the data set lacks, a mask of another size, a score
    that is no number from 0 to 1, or the same instance twice.
    """
    images = ImageFinder(dataset)
    instances: dict[int, dict[Instance, int]] = {image.image_id: {} for image in dataset.images}
    for position, (where, row) in enumerate(iterate_results(path)):
        image = images.find(row.get("image_id"), where=where, file_name=row.get("file_name"))
        instance = _parse(row, image, labels, f"{where} (image {image.source_id})")
        other = instances[image.image_id].setdefault(instance, position)
        if other != position:
            raise PredictionsError(f"{path}: results {other} and {position} are the same instance; keep one")
    for image in dataset.images:
        try:
            yield ImageInstances.of(image, list(instances.pop(image.image_id)))
        except CacheError as error:
            raise PredictionsError(f"{path}: {error}") from error


def iterate_results(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What errors call a row, and the row. Raises PredictionsError on a file without rows, and on a row that is no
    object."""
    for position, row in enumerate(_rows(path)):
        where = f"{path}: result {position}"
        if not isinstance(row, dict):
            raise PredictionsError(f"{where}: expected an object, got {str(row)[:80]}; write it again")
        yield where, row


def _rows(path: Path) -> Iterator[Any]:
    """The elements of the list, or of the list under "annotations" of an object."""
    try:
        with open_file(path) as file:
            is_object = file.read(PEEK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError:
        is_object = False  # the reader tells what is wrong
    what, remedy = "list of COCO results", "write it again"
    rows = iterate_json(
        path, "annotations.item" if is_object else "item", what=what, remedy=remedy, error=PredictionsError
    )
    row = None
    for row in rows:
        yield row
    if is_object and row is None:
        raise PredictionsError(f"{path}: expected a {what}, got an object without rows under 'annotations'; {remedy}")


def write_coco_results(path: Path, images: Iterable[ImageInstances], *, dataset: PanopticDataset) -> None:
    """Writes the instances, highest score of an image first; `read_coco_results` gives the same numbers again."""
    source_id_of = {image.image_id: image.source_id for image in dataset.images}
    with atomic_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        separator = "["
        for image in images:
            for row in _rows_of(image, source_id_of[image.image_id]):
                file.write(f"{separator}\n{json.dumps(row, separators=(',', ':'))}")
                separator = ","
        file.write("\n]\n" if separator == "," else "[]\n")


def _rows_of(image: ImageInstances, source_id: ImageId) -> Iterator[dict[str, Any]]:
    for index, rle in enumerate(image.rles):
        yield {
            "image_id": source_id,
            "category_id": int(image.category_ids[index]),
            "bbox": image.boxes_xywh[index].tolist(),
            "score": float(image.scores[index]),
            "segmentation": {"size": [image.height, image.width], "counts": rle.decode("ascii")},
        }


def _parse(row: Mapping[str, Any], image: PanopticImage, labels: LabelTable, where: str) -> Instance:
    category_id = labels.category_id(row.get("category_id"), is_thing=True, where=where)
    rle = mask_counts(row.get("segmentation"), image, where)
    mask_box = coco_mask.toBbox({"size": [image.height, image.width], "counts": rle}).tolist()
    box = mask_box if row.get("bbox") is None else _checked_box(row["bbox"], mask_box, image, where)
    return category_id, checked_score(row.get("score"), where), tuple(box), rle


def _checked_box(box: Any, mask_box: list[float], image: PanopticImage, where: str) -> list[float]:
    """The bbox; the mask's for one without area, as detectron2 writes of Mask2Former. Raises PredictionsError on what
    is none, and on the corners of the mask's box instead of its sides."""
    sides = [number(side) for side in box] if isinstance(box, list) else []
    checked = [side for side in sides if side is not None and abs(side) < MAX_COORDINATE_PX]
    is_box = len(checked) == len(sides) == 4
    are_corners = is_box and _are_corners(checked, mask_box, image)
    if not is_box or are_corners:
        corners = " (these are the mask's left, top, right and bottom)" if are_corners else ""
        raise PredictionsError(f"{where}: expected bbox [x, y, width, height], got {str(box)[:80]}{corners}")
    return checked if checked[2] and checked[3] else mask_box


def _are_corners(box: list[float], mask_box: list[float], image: PanopticImage) -> bool:
    """Whether they are near the corners of the mask's box and, as sides, would leave the photo. Near alone is not
    enough: at the photo's left edge, a box of which the mask fills the upper half is near them, too."""
    x, y, width, height = mask_box
    is_near = all(abs(a - b) <= BOX_ROUNDING_PX for a, b in zip(box, (x, y, x + width, y + height), strict=True))
    right, bottom = box[0] + box[2] - BOX_ROUNDING_PX, box[1] + box[3] - BOX_ROUNDING_PX
    return is_near and (right > image.width or bottom > image.height)


def checked_score(score: Any, where: str) -> float:
    """The score. Raises PredictionsError unless it is a number from 0 to 1."""
    value = number(score)
    if value is None or not 0 <= value <= 1 + ROUNDING_ABOVE_ONE:
        raise PredictionsError(f"{where}: expected a score from 0 to 1, got {score!r}")
    return min(value, 1.0)


def mask_counts(segmentation: Any, image: PanopticImage, where: str) -> bytes:
    """COCO compressed counts of an RLE or of polygons. Raises PredictionsError on what is no mask of the photo."""
    if isinstance(segmentation, list) and segmentation:
        return _rasterise(segmentation, image, where)
    try:
        height, width = segmentation["size"]
        counts = segmentation["counts"]
    except (KeyError, TypeError, ValueError):
        got = "a box alone" if segmentation is None else str(segmentation)[:80]
        raise PredictionsError(
            f"{where}: expected a segmentation {{size: [height, width], counts: RLE}} or polygons, got {got}; write "
            "masks with pycocotools.mask.encode"
        ) from None
    if (height, width) != (image.height, image.width):
        raise PredictionsError(
            f"{where}: expected a mask of {image.height} x {image.width} px as the photo has, got {height} x {width}"
        )
    try:
        return compress_counts(counts, height=height, width=width)
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}; write its mask again") from error


def _rasterise(polygons: list[Any], image: PanopticImage, where: str) -> bytes:
    """As pycocotools does. Polygons without a pixel are a mask without one."""
    hw = {"height": image.height, "width": image.width}
    try:
        if is_flat(polygons):
            raise ValueError(f"expected a list of polygons [[x, y, x, y, ...]], got a flat one, {str(polygons)[:80]}")
        counts = encode_polygons([polygon for polygon in polygons if has_area(polygon, **hw)], **hw)
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}") from error
    return compress_counts([image.height * image.width], **hw) if counts is None else counts


def number(value: Any) -> float | None:
    """The finite number, None where it is none, as text, true and NaN."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
