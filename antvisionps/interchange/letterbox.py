"""Masks on a network's letterboxed input, on the photo's pixels."""

import cv2
import numpy as np


def undo_letterbox(masks: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool of (N, h, w) masks of a photo that was shrunk to fit h x w and centred there, the rest padded.

    The pixels are those of Ultralytics' `scale_masks` (bilinear at half-pixel centres), at least half covered. Masks of
    the photo's own size stay.
    """
    if masks.shape[1:] == hw:
        return masks >= 0.5
    gain = min(masks.shape[1] / hw[0], masks.shape[2] / hw[1])
    sides = [max(round(side * gain), 1) for side in hw]
    top, left = (
        round((padded - side) / 2 - 0.1)  # as Ultralytics pads: of an odd pixel the lesser half comes first
        for padded, side in zip(masks.shape[1:], sides, strict=True)
    )
    cropped = masks[:, top : top + sides[0], left : left + sides[1]].astype(np.float32)
    resized = [cv2.resize(mask, hw[::-1], interpolation=cv2.INTER_LINEAR) for mask in cropped]
    return np.array(resized).reshape(-1, *hw) >= 0.5
