"""Instances in COCO's results format: one JSON list, a row each. https://cocodataset.org/#format-results."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.json_files import iterate_json
from antvisionps.interchange.label_table import LabelTable
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import ImageId, find_by_id
from antvisionps.panoptic.rle import compress_counts
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances

Instance = tuple[int, float, tuple[float, ...], bytes]
"""category_id, score, bbox_xywh, COCO compressed counts."""


def read_coco_results(path: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageInstances]:
    """Every image of the split, in ascending image_id; one that the file does not name has no instance.

    Masks are RLEs, compressed or not, at the photo's size; a bbox that is missing is the mask's. Raises
    PredictionsError on an image or category that the data set lacks, a mask of another size, a score that is no number
    from 0 to 1, or the same instance twice.
    """
    images = {image.source_id: image for image in dataset.images}
    instances: dict[ImageId, dict[Instance, int]] = {image_id: {} for image_id in images}
    rows = iterate_json(path, "item", what="list of COCO results", remedy="write it again", error=PredictionsError)
    for position, row in enumerate(rows):
        try:
            image = find_by_id(row.get("image_id") if isinstance(row, dict) else None, images)
        except ValueError as error:
            raise PredictionsError(f"{path}: result {position}: image_id {error}") from error
        instance = _parse(row, image, labels, f"{path}: result {position} (image {image.source_id})")
        other = instances[image.source_id].setdefault(instance, position)
        if other != position:
            raise PredictionsError(f"{path}: results {other} and {position} are the same instance; keep one")
    for image in dataset.images:
        try:
            yield ImageInstances.of(image, list(instances.pop(image.source_id)))
        except CacheError as error:
            raise PredictionsError(f"{path}: {error}") from error


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
    rle = _counts(row.get("segmentation"), image, where)
    box = row.get("bbox")
    if box is None:
        box = coco_mask.toBbox({"size": [image.height, image.width], "counts": rle}).tolist()
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box)):
        raise PredictionsError(f"{where}: expected bbox [x, y, width, height], got {box!r}")
    return category_id, checked_score(row.get("score"), where), tuple(map(float, box)), rle


def checked_score(score: Any, where: str) -> float:
    """The score. Raises PredictionsError unless it is a number from 0 to 1."""
    if not _is_number(score) or not 0 <= score <= 1:
        raise PredictionsError(f"{where}: expected a score from 0 to 1, got {score!r}")
    return float(score)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _counts(segmentation: Any, image: PanopticImage, where: str) -> bytes:
    try:
        height, width = segmentation["size"]
        counts = segmentation["counts"]
    except (KeyError, TypeError, ValueError):
        raise PredictionsError(
            f"{where}: expected a segmentation {{size: [height, width], counts: RLE}}, got {str(segmentation)[:80]}"
        ) from None
    if (height, width) != (image.height, image.width):
        raise PredictionsError(
            f"{where}: expected a mask of {image.height} x {image.width} px as the photo has, got {height} x {width}"
        )
    try:
        return compress_counts(counts, height=height, width=width)
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}; write its mask again") from error
