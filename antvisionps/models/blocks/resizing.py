"""The size at which the networks see a photo, in training and at test time."""

import cv2
import numpy as np


def resized_hw(hw: tuple[int, int], *, short_side_px: int, max_long_side_px: int) -> tuple[int, int]:
    """Size with that short side, or smaller where the long side would pass its limit; the aspect ratio is kept."""
    scale = min(short_side_px / min(hw), max_long_side_px / max(hw))
    return max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale))


def resize_photo(photo: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Bilinear, as at test time."""
    return cv2.resize(photo, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)
