"""Instances and semantic probabilities of a mask classifier's raw queries (Cheng et al. 2021, MaskFormer; 2022,
Mask2Former): each query has a class distribution with "no object" last, and a mask.

Semantics are MaskFormer's (section 3.4): at a pixel, a class has the sum over queries of class probability times mask
probability; a pixel's are divided by their sum. Instances are Mask2Former's: the best pairs of query and thing class,
each scored by its class probability times the mean mask probability of its foreground.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.letterbox import Padding, resize_to_photo
from antvisionps.interchange.tool_arrays import (
    Predicted,
    instances_from_masks,
    plane_categories,
    semantics_from_scores,
    sigmoid,
    softmax,
)
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.schema import MASK_PROBS_SIZE

MAX_INSTANCES = 100
"""Of an image, as COCO's evaluation counts them and Mask2Former keeps them."""


def read_queries(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    image: PanopticImage,
    labels: LabelTable,
    where: str,
    *,
    padding: Padding | None = None,
) -> Predicted:
    """Of class logits (Q, C + 1) and mask logits (Q, h, w) on a grid over the photo, or over the padded input.

    Raises PredictionsError on other shapes, a label without category and a grid of two strides over the padded input.
    """
    if class_logits.ndim != 2 or mask_logits.ndim != 3 or len(class_logits) != len(mask_logits):
        raise PredictionsError(
            f"{where}: expected class logits (Q, C + 1) and mask logits (Q, h, w) of one image, got "
            f"{class_logits.shape} and {mask_logits.shape}"
        )
    void = class_logits.shape[1] - 1
    if void in labels.stuff and labels.is_one_table and void - 1 in labels.stuff:
        raise PredictionsError(
            f"{where}: class logits have {void + 1} columns, and label {void} is a category; expected a last column of "
            "no object"
        )
    class_probs = softmax(class_logits.astype(np.float32), axis=1)[:, :-1]
    place = {} if padding is None else padding.place(mask_logits.shape[1:], where)
    masses = np.tensordot(class_probs.T, sigmoid(mask_logits.astype(np.float32)), axes=1)
    total = np.maximum(masses.sum(axis=0), np.finfo(np.float32).tiny)  # no query claims a cell of padding
    semantics = semantics_from_scores(masses / total, image, labels, where, **place)
    return Predicted(_instances(class_probs, mask_logits.astype(np.float32), image, labels, where, padding), semantics)


def _instances(
    class_probs: np.ndarray,
    mask_logits: np.ndarray,
    image: PanopticImage,
    labels: LabelTable,
    where: str,
    padding: Padding | None,
) -> ImageInstances:
    category_ids, kept = plane_categories(range(class_probs.shape[1]), labels, where)
    category_of = dict(zip(np.flatnonzero(kept).tolist(), category_ids.tolist(), strict=True))
    thing_columns = [column for column, one in category_of.items() if one in labels.categories.thing_ids]
    pairs = _best_pairs(class_probs[:, thing_columns])
    drawn = {query: _draw(mask_logits[query], image, padding) for query in sorted({query for query, _ in pairs})}
    return instances_from_masks(
        np.array([drawn[query].mask for query, _ in pairs]),
        [float(class_probs[query, thing_columns[column]] * drawn[query].sureness) for query, column in pairs],
        [category_of[thing_columns[column]] for _, column in pairs],
        image,
        where,
        mask_probs=np.array([drawn[query].grid for query, _ in pairs]).reshape(-1, MASK_PROBS_SIZE, MASK_PROBS_SIZE),
    )


def _best_pairs(probs: np.ndarray) -> Sequence[tuple[int, int]]:
    """(query, column) of the largest, best first; the first on a tie."""
    if not probs.shape[1]:
        return []
    order = np.argsort(-probs, axis=None, kind="stable")[:MAX_INSTANCES]
    return [divmod(position, probs.shape[1]) for position in order.tolist()]


@dataclass(frozen=True)
class _Drawn:
    """A query's mask (H, W) bool · mean mask probability of it · probabilities (28, 28) over its box."""

    mask: np.ndarray
    sureness: float
    grid: np.ndarray


def _draw(logits: np.ndarray, image: PanopticImage, padding: Padding | None) -> _Drawn:
    full = resize_to_photo(logits, image, padding)
    mask = full > 0
    if not mask.any():
        return _Drawn(mask, 0.0, np.zeros((MASK_PROBS_SIZE, MASK_PROBS_SIZE), dtype=np.float32))
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    box = full[top : top + height, left : left + width]
    shrinks = min(box.shape) >= MASK_PROBS_SIZE
    grid = cv2.resize(
        box, (MASK_PROBS_SIZE, MASK_PROBS_SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return _Drawn(mask, float(sigmoid(full[mask]).mean()), sigmoid(grid))
