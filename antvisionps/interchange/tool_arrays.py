"""What tools give in memory, as instances and semantics of the cache: masks, scores, label maps, class scores."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.interchange.coco_results import checked_score
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.letterbox import Padding
from antvisionps.interchange.semantic_files import (
    VOID_CATEGORY,
    one_hot_semantics,
    refuse_other_size,
    semantics_from_labels,
)
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import compress_counts, encode_masks
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

MASK_THRESHOLD = 0.5
"""A pixel belongs to a mask of probabilities from here on (He et al. 2017, section 3.1)."""

THINGS_PLANE = "things"
"""What detectron2 calls the stuff class of all things, which is no category."""


class Predicted(NamedTuple):
    """What a result says of an image; None where it says nothing of that kind."""

    instances: ImageInstances | None
    semantics: ImageSemantics | None


def to_numpy(values: Any) -> np.ndarray:
    """A torch tensor of any device and type, a list of such, or whatever numpy takes."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    elif isinstance(values, list | tuple):
        values = [to_numpy(one) if hasattr(one, "detach") else one for one in values]
    return np.asarray(values)


def rows_of(values: Any, count: int, shape: tuple[int, ...], where: str) -> np.ndarray:
    """(count, *shape). Raises PredictionsError on more or fewer values."""
    array = to_numpy(values)
    try:
        return array.reshape(count, *shape)
    except ValueError:
        raise PredictionsError(f"{where}: expected {(count, *shape)}, got {array.shape}") from None


def instances_from_masks(
    masks: Any,
    scores: Any,
    category_ids: Sequence[int],
    image: PanopticImage,
    where: str,
    *,
    boxes_xyxy: Any = None,
    boxes_xywh: Any = None,
    mask_probs: np.ndarray | None = None,
) -> ImageInstances:
    """Those whose mask has a pixel. `masks`: (N, H, W) of the photo's size, bool or probabilities, or N COCO RLEs; a
    box (N, 4) that is missing or has no area is the mask's. Raises PredictionsError on lengths that differ, another
    size, or no score."""
    rles = encode_any(masks, image, where)
    scores = to_numpy(scores).reshape(-1).tolist()
    refuse_other_lengths(rles, scores, category_ids, where)
    encoded = [{"size": [image.height, image.width], "counts": rle} for rle in rles]
    areas = coco_mask.area(encoded) if encoded else np.zeros(0)
    boxes = _boxes_xywh(encoded, boxes_xyxy, boxes_xywh, f"{where}: boxes")
    kept = np.flatnonzero(areas > 0)
    try:
        return ImageInstances(
            image_id=image.image_id,
            height=image.height,
            width=image.width,
            category_ids=np.array(category_ids, dtype=np.int32)[kept],
            scores=np.array([checked_score(score, where) for score in scores], dtype=np.float32)[kept],
            boxes_xywh=boxes.astype(np.float32)[kept],
            rles=[rles[index] for index in kept],
            mask_probs=None if mask_probs is None else as_bytes(mask_probs)[kept],
        )
    except CacheError as error:
        raise PredictionsError(f"{where}: {error}") from error


def refuse_other_lengths(masks: Sized, scores: Sized, labels: Sized, where: str) -> None:
    """Raises PredictionsError unless there are as many of each."""
    if not len(masks) == len(scores) == len(labels):
        raise PredictionsError(
            f"{where}: expected as many masks as scores and labels, got {len(masks)}, {len(scores)} and {len(labels)}"
        )


def _boxes_xywh(encoded: Sequence[dict[str, Any]], boxes_xyxy: Any, boxes_xywh: Any, where: str) -> np.ndarray:
    """(N, 4) of N RLEs."""
    of_masks = coco_mask.toBbox(encoded).reshape(-1, 4) if encoded else np.zeros((0, 4))
    if boxes_xyxy is not None:
        corners = rows_of(boxes_xyxy, len(encoded), (4,), where)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    else:
        boxes = of_masks if boxes_xywh is None else rows_of(boxes_xywh, len(encoded), (4,), where)
    # The boxes of detectron2's Mask2Former are zeros.
    return np.where(boxes[:, 2:].all(axis=1, keepdims=True), boxes, of_masks)


def no_semantics(image: PanopticImage, categories: CategorySet) -> ImageSemantics:
    """Void everywhere."""
    void = np.full((image.height, image.width), VOID_CATEGORY, dtype=np.int32)
    return one_hot_semantics(void, image, categories)


def as_bytes(probs: np.ndarray) -> np.ndarray:
    """uint8, 255 = 1, of probabilities."""
    return probs if probs.dtype == np.uint8 else np.rint(np.clip(probs, 0, 1) * 255).astype(np.uint8)


def encode_any(masks: Any, image: PanopticImage, where: str) -> list[bytes]:
    """COCO compressed counts of N masks. Raises PredictionsError on what is no mask of the photo."""
    if isinstance(masks, list | tuple) and masks and isinstance(masks[0], Mapping):
        return [_counts(rle, image, where) for rle in masks]
    stacked = stack_masks(masks, where)
    if not len(stacked):
        return []
    if stacked.ndim == 4 and stacked.shape[1] == 1:
        stacked = stacked[:, 0]
    if stacked.ndim != 3:
        raise PredictionsError(f"{where}: expected masks (N, height, width), got {stacked.shape}")
    refuse_other_size(where, image, stacked.shape[1:])
    if stacked.dtype.kind == "f":
        if not (stacked.min() >= 0 and stacked.max() <= 1):  # false for NaN
            raise PredictionsError(
                f"{where}: expected masks of bool or probabilities from 0 to 1, got {stacked.min():g} to "
                f"{stacked.max():g}; are these logits?"
            )
        stacked = stacked >= MASK_THRESHOLD
    return encode_masks(stacked)


def stack_masks(masks: Any, where: str) -> np.ndarray:
    """One array of them. Raises PredictionsError on masks of several sizes."""
    try:
        return to_numpy(masks)
    except ValueError:
        raise PredictionsError(f"{where}: expected masks of one size, (N, height, width); resize them") from None


def _counts(rle: Mapping[str, Any], image: PanopticImage, where: str) -> bytes:
    refuse_other_size(where, image, tuple(rle.get("size", ())))
    counts = rle.get("counts")
    try:
        return compress_counts(
            counts.decode() if isinstance(counts, bytes) else counts, height=image.height, width=image.width
        )
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}") from error


def semantics_from_array(
    array: np.ndarray,
    image: PanopticImage,
    labels: LabelTable,
    where: str,
    *,
    plane_labels: Sequence[int] | None = None,
    padding: Padding | None = None,
) -> ImageSemantics:
    """Of labels (H, W), or class scores (C, h, w) over the photo or the padded input. Raises PredictionsError on all
    else."""
    if array.ndim == 2 and array.dtype.kind in "iu":
        return semantics_from_labels(array, image, labels, where)
    if array.ndim != 3 or array.dtype.kind not in "fu":
        raise PredictionsError(
            f"{where}: expected labels (H, W) of whole numbers or class scores (C, h, w), got {array.shape} "
            f"{array.dtype}"
        )
    place = {} if padding is None else padding.place(array.shape[1:], where)
    return semantics_from_scores(array, image, labels, where, plane_labels=plane_labels, **place)


def semantics_from_scores(
    scores: np.ndarray,
    image: PanopticImage,
    labels: LabelTable,
    where: str,
    *,
    plane_labels: Sequence[int] | None = None,
    input_hw: tuple[int, int] | None = None,
    stride: float = 1.0,
) -> ImageSemantics:
    """Of (C, h, w) scores of the labels `plane_labels`, by default 0 to C - 1, on a grid that spans the photo, or
    `input_hw` / `stride` of its cells.

    With a negative number they are logits and get a softmax; else a pixel's scores are divided by their sum where that
    is above 1. uint8 are probabilities already, 255 = 1. Raises PredictionsError on a label without category and on
    what is not finite.
    """
    if not np.isfinite(scores).all():
        raise PredictionsError(f"{where}: expected finite class scores, got NaN or infinity")
    probs = _to_probs(scores)
    category_ids, kept = plane_categories(range(len(scores)) if plane_labels is None else plane_labels, labels, where)
    if len(scores) != len(kept):
        raise PredictionsError(f"{where}: expected a label for each of {len(scores)} planes, got {len(kept)}")
    try:
        return ImageSemantics.from_probs(
            image.image_id,
            hw=(image.height, image.width),
            input_hw=input_hw or scores.shape[1:],
            stride=stride,
            category_ids=category_ids,
            probs=probs[kept],
        )
    except CacheError as error:
        raise PredictionsError(f"{where}: {error}") from error


def _to_probs(scores: np.ndarray) -> np.ndarray:
    if scores.dtype == np.uint8:
        return scores / np.float32(255)
    scores = scores.astype(np.float32)
    if scores.min(initial=0) < 0:
        return softmax(scores)
    return scores / np.maximum(scores.sum(axis=0), 1)


def plane_categories(plane_labels: Sequence[int], labels: LabelTable, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Category ids (K,) int32 of the planes of a category, and which those are (C,) bool: detectron2 has one of all
    things."""
    kept = np.array([labels.stuff.get(int(label)) != THINGS_PLANE for label in plane_labels], dtype=bool)
    category_ids = [
        labels.category_of_plane(int(label), where=where)
        for label, is_kept in zip(plane_labels, kept, strict=True)
        if is_kept
    ]
    return np.array(category_ids, dtype=np.int32), kept


def softmax(logits: np.ndarray, axis: int = 0) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
