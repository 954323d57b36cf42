"""Reliability of semantic probabilities: of each cell of an end's grid the likeliest class against the true pixel at
the cell's centre."""

import numpy as np

from antvisionps.evaluation.reliability import Reliability
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.predictions.semantic import ImageSemantics, likeliest_classes


def semantic_reliability(image: ImageSemantics, gt_classes: np.ndarray, categories: CategorySet) -> Reliability:
    """gt_classes (H, W) uint8 class indices. Cells on void, and cells whose centre is beyond the photo, do not count;
    one without any probability is wrong."""
    rows, columns = (
        _centres(cells, stride=image.stride, input_px=input_px, size_px=size_px)
        for cells, input_px, size_px in (
            (image.planes.shape[1], image.input_height, image.height),
            (image.planes.shape[2], image.input_width, image.width),
        )
    )
    gt = gt_classes[np.ix_(rows, columns)]
    likeliest, confidence = (grid[: len(rows), : len(columns)] for grid in likeliest_classes(image, categories))
    is_labelled = gt != VOID_CLASS_INDEX
    is_right = (likeliest == gt) & (confidence > 0)
    return Reliability.of(confidence[is_labelled] / 255, is_right[is_labelled])


def _centres(cells: int, *, stride: float, input_px: int, size_px: int) -> np.ndarray:
    """The pixel of the original image below the centre of each cell, of those that lie on it."""
    on_input = (np.arange(cells) + 0.5) * stride
    return (on_input[on_input < input_px] * size_px / input_px).astype(np.int64)
