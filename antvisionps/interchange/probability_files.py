"""The semantic probabilities of an image as an npz.

It holds `probs` (C, grid_height, grid_width), floats from 0 to 1 or uint8 with 255 for 1, and `category_ids` (C,), the
labels of its planes; the grid may be coarser than the photo. `input_hw` (2,) and `stride` beside them say how the grid
lies on the network's input if it is not exactly on the whole photo.
"""

from pathlib import Path

import numpy as np

from antvisionps.core.errors import CacheError, PredictionsError, first_line
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.numpy_files import UNREADABLE, read_npz, whole_numbers
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.semantic import ImageSemantics

NAMES = frozenset({"probs", "category_ids", "input_hw", "stride"})

ROUNDING_ABOVE_ONE = 1e-3
"""A softmax in half precision overshoots 1 by no more."""

MAX_INPUT_SIDE_PX = 2**31 - 1


def read_probabilities(path: Path, image: PanopticImage, labels: LabelTable) -> ImageSemantics:
    """The planes of an image. Raises PredictionsError on a broken file, on what is no probability, and on planes that
    do not fit the labels or the grid."""
    arrays = _load(path)
    probs, plane_labels = arrays["probs"], arrays["category_ids"]
    if probs.ndim != 3 or plane_labels.shape != probs.shape[:1]:
        raise PredictionsError(
            f"{path}: expected probs (C, height, width) and category_ids (C,), got {probs.shape} and "
            f"{plane_labels.shape}"
        )
    _refuse_other_than_probabilities(path, probs)
    listed = [labels.category_of_plane(label, where=str(path)) for label in plane_labels.tolist()]
    category_ids = np.array(listed, dtype=np.int32)
    hw, (input_hw, stride) = (image.height, image.width), _grid(path, arrays)
    try:
        if probs.dtype == np.uint8:
            return ImageSemantics(image.image_id, *hw, *input_hw, stride, category_ids, probs)
        probs = probs.astype(np.float32)
        return ImageSemantics.from_probs(
            image.image_id, hw=hw, input_hw=input_hw, stride=stride, category_ids=category_ids, probs=probs
        )
    except CacheError as error:
        raise PredictionsError(f"{path}: {error}") from error


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(path, NAMES)
        missing = [name for name in ("probs", "category_ids") if name not in arrays]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        for name in arrays.keys() & {"category_ids", "input_hw"}:
            arrays[name] = whole_numbers(arrays[name])
    except UNREADABLE as error:
        raise PredictionsError(
            f"{path}: expected an npz of probs (C, height, width) and category_ids (C,), got none "
            f"({first_line(error)}); write it with np.savez"
        ) from error
    return arrays


def _grid(path: Path, arrays: dict[str, np.ndarray]) -> tuple[tuple[int, int], float]:
    """input_hw and stride; without them the grid is the input."""
    input_hw = arrays.get("input_hw", np.array(arrays["probs"].shape[1:]))
    stride = arrays.get("stride", np.float32(1))
    if input_hw.shape != (2,) or not 1 <= input_hw.min() <= input_hw.max() <= MAX_INPUT_SIDE_PX:
        raise PredictionsError(f"{path}: expected input_hw [height, width] in px, got {input_hw.tolist()}")
    if stride.shape or stride.dtype.kind not in "iuf" or not 0 < stride <= input_hw.max():
        raise PredictionsError(f"{path}: expected a stride above 0, at most the input's side, got {stride.tolist()}")
    return (int(input_hw[0]), int(input_hw[1])), float(stride)


def _refuse_other_than_probabilities(path: Path, probs: np.ndarray) -> None:
    if probs.dtype == np.uint8:
        return
    if probs.dtype.kind != "f":
        raise PredictionsError(f"{path}: expected probs of a float type or uint8, got {probs.dtype}")
    low, high = probs.min(initial=0), probs.max(initial=0)
    if not (low >= 0 and high <= 1 + ROUNDING_ABOVE_ONE):  # false for NaN
        raise PredictionsError(f"{path}: expected probabilities from 0 to 1, got {low} to {high}; are these logits?")
    if high < 0.5 / 255:
        raise PredictionsError(f"{path}: expected probabilities of which one is above 0, got at most {high}")
