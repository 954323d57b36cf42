"""Instances in COCO's results format: one JSON list, a row each. https://cocodataset.org/#format-results."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.interchange.labels import Labels
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.rle import parse_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances

Row = tuple[int, float, tuple[float, ...], bytes]
"""category_id, score, bbox_xywh, COCO compressed counts."""


def read_coco_results(path: Path, *, dataset: PanopticDataset, labels: Labels) -> Iterator[ImageInstances]:
    """Every image of the split, in ascending image_id; one that the file does not name has no instance.

    Masks are RLEs, compressed or not, at the photo's size; a bbox that is missing is the mask's. Raises
    PredictionsError on an image or category that the data set lacks, a mask of another size, a score that is no number
    from 0 to 1, or the same instance twice.
    """
    rows_of_image = _group_by_image(path, _load_rows(path), {image.image_id for image in dataset.images})
    for image in dataset.images:
        yield _build(path, image, rows_of_image.get(image.image_id, []), labels)


def write_coco_results(path: Path, images: Iterable[ImageInstances]) -> None:
    """Writes the instances, highest score of an image first; `read_coco_results` gives the same numbers again."""
    with atomic_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        separator = "["
        for image in images:
            for row in _rows_of(image):
                file.write(f"{separator}\n{json.dumps(row, separators=(',', ':'))}")
                separator = ","
        file.write("\n]\n" if separator == "," else "[]\n")


def _rows_of(image: ImageInstances) -> Iterator[dict[str, Any]]:
    for index, rle in enumerate(image.rles):
        yield {
            "image_id": image.image_id,
            "category_id": int(image.category_ids[index]),
            "bbox": image.boxes_xywh[index].tolist(),
            "score": float(image.scores[index]),
            "segmentation": {"size": [image.height, image.width], "counts": rle.decode("ascii")},
        }


def _load_rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PredictionsError(f"{path}: no readable JSON ({error})") from error
    if not isinstance(rows, list):
        raise PredictionsError(f"{path}: expected a list of COCO results, got a {type(rows).__name__}")
    return rows


def _group_by_image(path: Path, rows: list[Any], image_ids: set[int]) -> Mapping[int, list[tuple[int, Any]]]:
    """image_id → (position in the file, row)."""
    rows_of_image: defaultdict[int, list[tuple[int, Any]]] = defaultdict(list)
    for position, row in enumerate(rows):
        image_id = row.get("image_id") if isinstance(row, dict) else None
        if type(image_id) is not int or image_id not in image_ids:
            raise PredictionsError(
                f"{path}: result {position}: image {image_id!r} is not in this split; predict the split's images only"
            )
        rows_of_image[image_id].append((position, row))
    return rows_of_image


def _build(path: Path, image: PanopticImage, rows: list[tuple[int, Any]], labels: Labels) -> ImageInstances:
    parsed: dict[Row, int] = {}
    for position, row in rows:
        instance = _parse(row, image, labels, f"{path}: result {position} (image {image.image_id})")
        other = parsed.setdefault(instance, position)
        if other != position:
            raise PredictionsError(f"{path}: results {other} and {position} are the same instance; keep one")
    try:
        return ImageInstances(
            image_id=image.image_id,
            height=image.height,
            width=image.width,
            category_ids=np.array([row[0] for row in parsed], dtype=np.int32),
            scores=np.array([row[1] for row in parsed], dtype=np.float32),
            boxes_xywh=np.array([row[2] for row in parsed], dtype=np.float32).reshape(-1, 4),
            rles=[row[3] for row in parsed],
            mask_probs=None,
        )
    except CacheError as error:
        raise PredictionsError(f"{path}: {error}") from error


def _parse(row: Mapping[str, Any], image: PanopticImage, labels: Labels, where: str) -> Row:
    category_id = labels.category_id(row.get("category_id"), is_thing=True, where=where)
    rle = _counts(row.get("segmentation"), image, where)
    _refuse_malformed(rle, image, where)
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
    if isinstance(counts, str):
        return counts.encode()
    return _compressed(counts, image, where)


def _refuse_malformed(rle: bytes, image: PanopticImage, where: str) -> None:
    """Before pycocotools sees it, which ends the process at some and never comes back from others."""
    try:
        parse_runs([rle], height=image.height, width=image.width)
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}; write its mask again") from error


def _compressed(counts: Any, image: PanopticImage, where: str) -> bytes:
    """The compressed counts of uncompressed ones."""
    lengths_fit = isinstance(counts, list) and all(type(length) is int and length >= 0 for length in counts)
    if not lengths_fit or sum(counts) != image.height * image.width:
        raise PredictionsError(
            f"{where}: expected run lengths of {image.height * image.width} px, got {str(counts)[:80]}"
        )
    rle: bytes = coco_mask.frPyObjects({"size": [image.height, image.width], "counts": counts}, 0, 0)["counts"]
    return rle
