"""What the cache holds of a photo: the networks' predictions with masks pasted and categories named."""

import numpy as np

from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.inference.masks import paste_mask
from antvisionps.models.inference.views import DetectedInstances, PredictionSettings, predict_image
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics


def predict_photo(
    photo: np.ndarray, end: EndNetworks, settings: PredictionSettings, *, image_id: int, categories: CategorySet
) -> tuple[ImageInstances | None, ImageSemantics]:
    """What the cache holds of an (H, W, 3) uint8 RGB photo; no instances from an end of semantics alone."""
    prediction = predict_image(photo, end.networks, end.weights, settings)
    semantics = ImageSemantics.from_probs(
        image_id,
        hw=prediction.image_hw,
        input_hw=prediction.input_hw,
        stride=prediction.semantic_stride,
        category_ids=categories.category_ids,
        probs=prediction.semantic_probs,
    )
    if prediction.instances is None:
        return None, semantics
    return _to_image_instances(prediction.instances, prediction.image_hw, image_id, categories), semantics


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
