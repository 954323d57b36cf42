"""A mask classifier's raw queries as an npz an image: `class_logits` (Q, C + 1) and `mask_logits` (Q, h, w).

If the network's input was padded, `input_hw` (2,) and `padded_hw` (2,) beside them say how the photo lies on it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from antvisionps.core.errors import PredictionsError, first_line
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.letterbox import Padding
from antvisionps.interchange.numpy_files import UNREADABLE, read_npz, whole_numbers
from antvisionps.interchange.raw_queries import read_queries
from antvisionps.interchange.semantic_files import every_file
from antvisionps.interchange.tool_arrays import Predicted
from antvisionps.panoptic.dataset import PanopticDataset

LOGITS = ("class_logits", "mask_logits")


def read_query_files(folder: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[Predicted]:
    """Every image of the split, in ascending image_id. Raises PredictionsError on a missing, unreadable or surplus
    file, and on what `read_queries` refuses."""
    for image, path in every_file(folder, dataset, [".npz"]):
        arrays = _load(path)
        padding = Padding.of(_side(path, arrays, "input_hw"), _side(path, arrays, "padded_hw"))
        class_logits, mask_logits = (arrays[name] for name in LOGITS)
        yield read_queries(class_logits, mask_logits, image, labels, str(path), padding=padding)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(path, {*LOGITS, "input_hw", "padded_hw"})
        for name in LOGITS:
            if name not in arrays:
                raise ValueError(f"it has no {name}")
            if arrays[name].dtype.kind != "f":
                raise ValueError(f"expected {name} of a float type, got {arrays[name].dtype}")
        return arrays
    except UNREADABLE as error:
        raise PredictionsError(
            f"{path}: expected an npz of class_logits (Q, C + 1) and mask_logits (Q, h, w), got none "
            f"({first_line(error)}); write it with np.savez"
        ) from error


def _side(path: Path, arrays: dict[str, np.ndarray], name: str) -> tuple[int, int] | None:
    if name not in arrays:
        return None
    try:
        height, width = whole_numbers(arrays[name]).tolist()
        if min(height, width) > 0:
            return height, width
    except (TypeError, ValueError):
        pass
    raise PredictionsError(f"{path}: expected {name} [height, width] in px, got {arrays[name].tolist()}")
