"""Semantic predictions as detectron2's SemSegEvaluator writes them, `sem_seg_predictions.json`: a list of rows with
`file_name`, `category_id` and `segmentation`, the RLE of the category's pixels. Pixels without a row are void."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.coco_results import iterate_results, mask_counts
from antvisionps.interchange.image_names import ImageFinder
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.semantic_files import VOID_CATEGORY, one_hot_semantics
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.rle import parse_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.semantic import ImageSemantics

Planes = list[tuple[int | None, bytes]]
"""category_id, None for void, and COCO compressed counts."""


def read_semantic_results(path: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageSemantics]:
    """Every image of the split, in ascending image_id.

    Raises PredictionsError on an unknown image or category, a mask of another size, an image without a row, and a pixel
    of two categories.
    """
    images = ImageFinder(dataset)
    planes: dict[int, Planes] = {}
    for where, row in iterate_results(path):
        image = images.find_photo(row.get("file_name"), where=where)
        planes.setdefault(image.image_id, []).append(_parse(row, image, labels, f"{where} (image {image.source_id})"))
    for image in dataset.images:
        if image.image_id not in planes:
            raise PredictionsError(f"{path}: image {image.source_id} is missing; every image is needed")
        category_map = _paint(planes.pop(image.image_id), image, f"{path}: image {image.source_id}")
        yield one_hot_semantics(category_map, image, labels.categories)


def _parse(row: dict[str, Any], image: PanopticImage, labels: LabelTable, where: str) -> tuple[int | None, bytes]:
    category_id = labels.category_of_pixels(row.get("category_id"), where=where)
    return category_id, mask_counts(row.get("segmentation"), image, where)


def _paint(planes: Planes, image: PanopticImage, where: str) -> np.ndarray:
    """(H, W) category ids."""
    category_map = np.full((image.height, image.width), VOID_CATEGORY, dtype=np.int32)
    is_taken = np.zeros(category_map.shape, dtype=bool)
    runs = parse_runs([counts for _, counts in planes], height=image.height, width=image.width)
    for index, (category_id, _) in enumerate(planes):
        mask = runs.mask(index)
        if (mask & is_taken).any():
            raise PredictionsError(f"{where}: a pixel of two categories; write it again")
        is_taken |= mask
        category_map[mask] = VOID_CATEGORY if category_id is None else category_id
    return category_map
