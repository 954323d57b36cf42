"""Masks, maps, category sets and instances of a few pixels, for the tests of every room."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import ImageInstances


def category_set(things: Mapping[int, str], stuff: Mapping[int, str]) -> CategorySet:
    """Of category_id → name."""
    rows = [
        {"id": category_id, "name": name, "isthing": is_thing}
        for is_thing, names in ((1, things), (0, stuff))
        for category_id, name in names.items()
    ]
    return CategorySet.from_json(rows, where="test")


def draw(picture: str) -> np.ndarray:
    """(H, W) bool, true where `#` is."""
    return np.array([[pixel == "#" for pixel in line] for line in picture.split()])


def draw_ids(picture: str) -> np.ndarray:
    """(H, W) segment ids: letters are segments (a = 1, b = 2 …), a dot is void."""
    return np.array([[".abcdefgh".index(pixel) for pixel in line] for line in picture.split()])


def draw_box(hw: tuple[int, int], xywh: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) bool, true inside the box."""
    x, y, width, height = xywh
    mask = np.zeros(hw, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def found(*rows: tuple, hw: tuple[int, int] = (3, 4), image_id: int = 1, **more: Any) -> ImageInstances:
    """Instances of (category_id, score, mask (H, W)) in the boxes of their masks; hw: the size if there is none."""
    masks = np.array([mask for _, _, mask in rows], dtype=bool).reshape(-1, *(rows[0][2].shape if rows else hw))
    boxes_xywh = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    values = {
        "category_ids": np.array([category_id for category_id, _, _ in rows], np.int32),
        "scores": np.array([score for _, score, _ in rows], np.float32),
        "boxes_xywh": np.array(boxes_xywh, np.float32).reshape(-1, 4),
        "rles": encode_masks(masks) if rows else [],
        "mask_probs": None,
    }
    return ImageInstances(image_id, *masks.shape[1:], **(values | more))
