"""Reliability of semantic probabilities: of each cell of an end's grid the likeliest class against the true pixel at
the cell's centre."""

import numpy as np

from antvisionps.evaluation.reliability import Reliability
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.predictions.semantic import ImageSemantics, likeliest_classes

LEVELS = 256
"""The cache has probabilities as round(255 p)."""


def semantic_reliability(
    predicted: ImageSemantics, gt_ids: np.ndarray, image: PanopticImage, categories: CategorySet
) -> Reliability:
    """gt_ids (H, W) segment ids of the image. Cells on void, and cells whose centre is beyond the photo, do not count;
    one without any probability is wrong."""
    rows, columns = predicted.pixels_of_cells()
    gt = class_index_map(gt_ids[np.ix_(rows, columns)], image, categories)
    likeliest, confidence = (grid[: len(rows), : len(columns)] for grid in likeliest_classes(predicted, categories))
    is_right = (likeliest == gt) & (confidence > 0)
    level = (confidence + LEVELS * is_right.astype(np.intp))[gt != VOID_CLASS_INDEX]
    times = np.bincount(level, minlength=2 * LEVELS)
    return Reliability.of(np.tile(np.arange(LEVELS) / 255, 2), np.arange(2 * LEVELS) >= LEVELS, times)
