"""Non-maximum suppression of boxes, as torchvision's `nms` does it."""

import numpy as np


def keep_best_boxes(boxes_xywh: np.ndarray, *, max_iou: float) -> np.ndarray:
    """(N,) bool: boxes (N, 4), best first, that overlap no better one that is kept by an IoU above max_iou."""
    low = boxes_xywh[:, :2].astype(np.float64)
    high = low + boxes_xywh[:, 2:]
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    shared = np.clip(sides, 0, None).prod(axis=2)
    area = (high - low).prod(axis=1)
    union = area[:, None] + area - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    is_kept = np.ones(len(low), dtype=bool)
    for index in range(len(low)):
        if is_kept[index]:
            is_kept[index + 1 :] &= iou[index, index + 1 :] <= max_iou
    return is_kept
