"""Masks on a network's padded input, on the photo's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.panoptic.segments import PanopticImage


@dataclass(frozen=True)
class Padding:
    """The network's input in pixels: `input_hw` shows the photo, at the top left of `padded_hw`."""

    input_hw: tuple[int, int]
    padded_hw: tuple[int, int]

    @classmethod
    def of(cls, input_hw: tuple[int, int] | None, padded_hw: tuple[int, int] | None) -> Padding | None:
        """None where neither is given. Raises PredictionsError on one without the other."""
        if input_hw is not None and padded_hw is not None:
            return cls(input_hw, padded_hw)
        if input_hw is not None or padded_hw is not None:
            raise PredictionsError("expected input_hw and padded_hw together, got one of them")
        return None

    def place(self, grid_hw: tuple[int, ...], where: str) -> dict[str, Any]:
        """How a grid over the padded input lies on the photo's share: `input_hw` and `stride`. Raises PredictionsError
        where its cells are no squares."""
        strides = [padded / cells for padded, cells in zip(self.padded_hw, grid_hw, strict=True)]
        if strides[0] != strides[1]:
            raise PredictionsError(
                f"{where}: expected a grid of one stride over the padded input {self.padded_hw}, got cells of "
                f"{strides[0]:g} x {strides[1]:g} px"
            )
        return {"input_hw": self.input_hw, "stride": strides[0]}


def resize_to_photo(plane: np.ndarray, image: PanopticImage, padding: Padding | None) -> np.ndarray:
    """(H, W) float32 of a plane (h, w) over the photo or the padded input, bilinear at half-pixel centres; padding is
    cut off."""
    height, width = image.height, image.width
    scaled_hw = [height, width]
    if padding is not None:
        scaled_hw = [
            round(side * padded / valid)
            for side, padded, valid in zip((height, width), padding.padded_hw, padding.input_hw, strict=True)
        ]
    resized = cv2.resize(plane.astype(np.float32), scaled_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return resized[:height, :width]


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
