"""Masks of instances, from the grid of their box to the photo's pixels."""

import numpy as np
import torch
from torch.nn import functional as F

MASK_THRESHOLD = 0.5
"""A pixel belongs to an instance from this probability on (He et al. 2017, section 3.1)."""


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
