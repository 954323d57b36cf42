"""One network's panoptic map by the heuristic of Kirillov et al. (2019, section 7), with their thresholds.

A view of a training needs one network, one size and fixed thresholds. Those of the fusion are tuned, and a training
that depended on them would run again whenever they change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from antvisionps.models.inference.views import DetectedInstances, ImagePrediction
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet

MIN_SCORE = 0.5
MAX_OVERLAP_FRAC = 0.5
MIN_STUFF_FRAC = 64 * 64 / (480 * 640)
"""64 x 64 pixels of most of COCO's photos, as a part of the photo."""


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """segment_ids (H, W) int32, 0 = void, and the category_id of each segment."""

    segment_ids: np.ndarray
    category_of: dict[int, int]


def draw_map(prediction: ImagePrediction, masks: Sequence[np.ndarray], categories: CategorySet) -> PanopticMap:
    """The map at the photo's size; `masks` (H, W) bool are those of the prediction's instances."""
    drawn = PanopticMap(np.zeros(prediction.image_hw, dtype=np.int32), {})
    if prediction.instances is not None:
        _paste_instances(drawn, prediction.instances, masks, categories)
    _fill_in_stuff(drawn, likeliest_classes(prediction), categories)
    return drawn


def _paste_instances(
    drawn: PanopticMap, instances: DetectedInstances, masks: Sequence[np.ndarray], categories: CategorySet
) -> None:
    """Best first; one of which too much is taken is dropped."""
    for score, class_index, mask in zip(instances.scores, instances.class_indices, masks, strict=True):
        free = mask & (drawn.segment_ids == VOID_SEGMENT_ID)
        area_px, taken_px = mask.sum(), (mask & ~free).sum()
        if score >= MIN_SCORE and area_px > 0 and taken_px / area_px <= MAX_OVERLAP_FRAC:
            _add(drawn, free, int(categories.category_ids[class_index]))


def _fill_in_stuff(drawn: PanopticMap, classes: np.ndarray, categories: CategorySet) -> None:
    min_area_px = max(1.0, MIN_STUFF_FRAC * classes.size)
    for category in categories.stuff:
        is_class = classes == categories.class_index(category.category_id)
        free = is_class & (drawn.segment_ids == VOID_SEGMENT_ID)
        if free.sum() >= min_area_px:
            _add(drawn, free, category.category_id)


def _add(drawn: PanopticMap, mask: np.ndarray, category_id: int) -> None:
    segment_id = len(drawn.category_of) + 1
    drawn.segment_ids[mask] = segment_id
    drawn.category_of[segment_id] = category_id


def likeliest_classes(prediction: ImagePrediction) -> np.ndarray:
    """(H, W) class indices of the probabilities resampled bilinearly to the photo's pixels, the lowest on a tie."""
    probs = torch.from_numpy(prediction.semantic_probs)
    axes = []
    for pixels, input_px, cells in zip(prediction.image_hw, prediction.input_hw, probs.shape[1:], strict=True):
        centres = (torch.arange(pixels, dtype=torch.float32) + 0.5) / pixels
        axes.append(centres * (input_px / (prediction.semantic_stride * cells)) * 2 - 1)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    seen = F.grid_sample(probs[None], grid[None], padding_mode="border", align_corners=False)[0]
    return seen.argmax(dim=0).numpy()
