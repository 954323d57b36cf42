"""What the cache holds of a photo: the networks' predictions with masks pasted and categories named."""

import numpy as np
import torch
from torch.nn import functional as F

from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.inference.views import DetectedInstances, PredictionSettings, predict_image
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

MASK_THRESHOLD = 0.5
"""A pixel belongs to an instance from this probability on (He et al. 2017, section 3.1)."""


def predict_photo(
    photo: np.ndarray, end: EndNetworks, settings: PredictionSettings, *, image_id: int, categories: CategorySet
) -> tuple[ImageInstances | None, ImageSemantics]:
    """What the cache holds of an (H, W, 3) uint8 RGB photo; no instances from an end of semantics alone."""
    prediction = predict_image(photo, end.networks, end.weights, settings)
    height, width = prediction.image_hw
    semantics = ImageSemantics.from_probs(
        image_id=image_id,
        height=height,
        width=width,
        input_height=prediction.input_hw[0],
        input_width=prediction.input_hw[1],
        stride=prediction.semantic_stride,
        category_ids=categories.category_ids,
        probs=prediction.semantic_probs,
    )
    if prediction.instances is None:
        return None, semantics
    return _to_image_instances(prediction.instances, (height, width), image_id, categories), semantics


def _to_image_instances(
    detected: DetectedInstances, hw: tuple[int, int], image_id: int, categories: CategorySet
) -> ImageInstances:
    """Those whose mask has a pixel."""
    rles, kept = [], []
    for index, (probs, box) in enumerate(zip(detected.mask_probs, detected.boxes_xyxy, strict=True)):
        mask = paste_mask(probs, box, hw)
        if mask.any():
            rles.extend(encode_masks(mask[None]))
            kept.append(index)
    boxes = detected.boxes_xyxy[kept]
    return ImageInstances(
        image_id=image_id,
        height=hw[0],
        width=hw[1],
        category_ids=categories.category_ids[detected.class_indices[kept]],
        scores=detected.scores[kept].astype(np.float32).clip(0, 1),  # a weighted mean can round to more
        boxes_xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32),
        rles=rles,
        mask_probs=np.rint(detected.mask_probs[kept] * 255).astype(np.uint8),
    )


def paste_mask(mask_probs: np.ndarray, box_xyxy: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(H, W) bool mask of an (m, m) probability grid stretched over its box.

    Bilinear at pixel centres, zero outside the grid, threshold 0.5 inclusive, cut at the image's border; equal to
    mmdet's pasting. Empty for a box outside the image or without area.
    """
    mask = np.zeros(image_hw, dtype=bool)
    x0, y0, x1, y1 = (float(edge) for edge in box_xyxy)
    left, right = max(int(np.floor(x0)) - 1, 0), min(int(np.ceil(x1)) + 1, image_hw[1])
    top, bottom = max(int(np.floor(y0)) - 1, 0), min(int(np.ceil(y1)) + 1, image_hw[0])
    if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
        return mask
    columns = (np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(x0)) / np.float32(x1 - x0) * 2 - 1
    rows = (np.arange(top, bottom, dtype=np.float32) + 0.5 - np.float32(y0)) / np.float32(y1 - y0) * 2 - 1
    grid = torch.from_numpy(np.stack(np.meshgrid(columns, rows), axis=-1)[None])
    probs = torch.from_numpy(np.ascontiguousarray(mask_probs, dtype=np.float32))[None, None]
    pasted = F.grid_sample(probs, grid, align_corners=False)[0, 0].numpy()
    mask[top:bottom, left:right] = pasted >= MASK_THRESHOLD
    return mask
