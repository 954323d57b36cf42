"""Trained detectors in files of torchvision, of mmdet and of our own, read as state dicts in mmdet's names and order.

torchvision's detectors differ from mmdet's in names, in the class of the background (first there, last here) and, in
version 2, in batch norm after convolutions, which is folded into them. The order of anchors, box deltas and RoI
features is the same, and so are the pixels that ResNets were trained on. RoIAlign is not: torchvision's lies half a
cell beside.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from numpy._core import multiarray
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from antvisionps.core.checksums import file_sha256
from antvisionps.core.errors import ModelError, first_line
from antvisionps.core.input_files import refuse_other_than_file
from antvisionps.models.blocks.state_dicts import first_unusable, load_checked
from antvisionps.models.training.weights import NETWORK_FILE, WEIGHTS_FILE, read_network
from antvisionps.panoptic.categories import CategorySet

REMEDY = "set load_from to null or to a state dict of torchvision's or mmdet's detectors or of a network trained here"

Names = tuple[str, ...]


@dataclass(frozen=True)
class DetectorFile:
    """`tensors` have mmdet's names and order. `thing_names` names the classes of the boxes, `class_names` those of the
    semantic branch, in the model's order; None where the file does not say."""

    path: Path
    library: str
    tensors: Mapping[str, Tensor]
    thing_names: Names | None
    class_names: Names | None


def read_detector(path: Path) -> DetectorFile:
    """The detector in a file of torch's or safetensors'.

    Raises ModelError where the file is missing, damaged, holds more than tensors and plain values, or a value that is
    not finite, and on a ResNet in Caffe's style.
    """
    content = _read(path)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected tensors by name, got none; {REMEDY}")
    tensors = {str(name).removeprefix("module."): t for name, t in state.items() if isinstance(t, Tensor)}
    if problem := first_unusable(tensors):
        raise ModelError(f"{path}: {problem}; {REMEDY}")
    if any(name.startswith("backbone.body.") for name in tensors):
        return _torchvisions(path, tensors)
    if path.name == WEIGHTS_FILE and (path.parent / NETWORK_FILE).is_file():
        return _our_own(path, tensors)
    return _mmdets(path, tensors, content.get("meta"))


def _read(path: Path) -> Mapping[Any, Any]:
    _refuse_missing(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # safetensors has a type of its own, and raises others too
            raise ModelError(f"{path}: cannot be read as safetensors ({first_line(error)}); {REMEDY}") from error
    with torch.serialization.safe_globals(_MMENGINES):
        return load_checked(path, remedy=REMEDY)


def detector_sha256(path: Path) -> str:
    """The checksum of a detector's file. Raises ModelError where there is none."""
    _refuse_missing(path)
    return file_sha256(path)


def _refuse_missing(path: Path) -> None:
    try:
        refuse_other_than_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; {REMEDY}") from None
    except OSError as error:
        raise ModelError(f"{path}: {error}; {REMEDY}") from error


def _nothing(*_: object) -> None:
    """Stands in for methods that a checkpoint names."""


_MMENGINES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    HistoryBuffer,
    (_nothing, "builtins.getattr"),
    multiarray._reconstruct,
    multiarray.scalar,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]
"""What mmengine's checkpoints hold beside tensors: histories of losses, numpy's arrays and numbers. None runs code."""


def _our_own(path: Path, tensors: Mapping[str, Tensor]) -> DetectorFile:
    categories = CategorySet.from_json(read_network(path.parent).categories, where=str(path.parent / NETWORK_FILE))
    return DetectorFile(path, "trained here", tensors, *class_names(categories))


def class_names(categories: CategorySet) -> tuple[Names, Names]:
    """Names of the things and of all classes, in the order of class indices."""
    return tuple(c.name for c in categories.things), tuple(c.name for c in categories.categories)


def _mmdets(path: Path, tensors: Mapping[str, Tensor], meta: object) -> DetectorFile:
    meta = meta if isinstance(meta, Mapping) else {}
    if re.search(r"""style['"]?\s*[=:]\s*['"]caffe""", str(meta.get("cfg", ""))):
        raise ModelError(
            f"{path}: its backbone is of style caffe, which has other strides and pixel values; give a detector of "
            "style pytorch"
        )
    dataset = meta.get("dataset_meta")
    names = dataset.get("classes") if isinstance(dataset, Mapping) else meta.get("CLASSES")
    known = tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else None
    # Of a panoptic data set the things come first.
    return DetectorFile(path, "mmdet", tensors, known and known[: _num_things(tensors)], known)


def _num_things(tensors: Mapping[str, Tensor]) -> int | None:
    """Classes of the first box head, or None without one; the background is one more row."""
    rows = [len(tensor) for name, tensor in tensors.items() if name.endswith("fc_cls.bias")]
    return rows[0] - 1 if rows else None


_COCO_NAMES: Names = tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
"""torchvision's classes but for the background; an id that COCO skips is called N/A."""

_LAYER = r"\.(?:0\.)?(weight|bias)"
"""Of a convolution, which torchvision wraps since 0.13; the files of its COCO detectors are older."""

_TORCHVISIONS = {
    r"backbone\.body\.(.+)": r"backbone.\1",
    r"backbone\.fpn\.inner_blocks\.(\d)" + _LAYER: r"neck.lateral_convs.\1.conv.\2",
    r"backbone\.fpn\.layer_blocks\.(\d)" + _LAYER: r"neck.fpn_convs.\1.conv.\2",
    r"rpn\.head\.conv(?:\.0)?" + _LAYER: r"rpn_head.rpn_conv.\1",
    r"rpn\.head\.conv\.([1-9])" + _LAYER: r"rpn_head.rpn_conv.\1.conv.\2",
    r"rpn\.head\.cls_logits\.(.+)": r"rpn_head.rpn_cls.\1",
    r"rpn\.head\.bbox_pred\.(.+)": r"rpn_head.rpn_reg.\1",
    r"roi_heads\.box_head\.(\d)\.0\.(weight|bias)": r"roi_head.bbox_head.shared_convs.\1.conv.\2",
    r"roi_heads\.box_head\.fc6\.(.+)": r"roi_head.bbox_head.shared_fcs.0.\1",
    r"roi_heads\.box_head\.fc7\.(.+)": r"roi_head.bbox_head.shared_fcs.1.\1",
    r"roi_heads\.box_predictor\.cls_score\.(.+)": r"roi_head.bbox_head.fc_cls.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(.+)": r"roi_head.bbox_head.fc_reg.\1",
    **{rf"roi_heads\.mask_head\.mask_fcn{k + 1}\.(.+)": rf"roi_head.mask_head.convs.{k}.conv.\1" for k in range(4)},
    r"roi_heads\.mask_head\.(\d)\.0\.(weight|bias)": r"roi_head.mask_head.convs.\1.conv.\2",
    r"roi_heads\.mask_predictor\.conv5_mask\.(.+)": r"roi_head.mask_head.upsample.\1",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)": r"roi_head.mask_head.conv_logits.\1",
}
"""A name of torchvision's → mmdet's."""

_REORDERED: dict[str, Callable[[Tensor], Tensor]] = {
    ".fc_cls.": lambda rows: rows.roll(-1, dims=0),
    ".fc_reg.": lambda rows: rows[4:],
    ".conv_logits.": lambda rows: rows[1:],
}
"""The background is torchvision's class 0; mmdet has it last, and neither boxes nor masks of it."""


def _torchvisions(path: Path, tensors: Mapping[str, Tensor]) -> DetectorFile:
    converted = {}
    for name, tensor in fold_norms(tensors).items():
        new = _mmdets_name(name)
        reorder = next((how for part, how in _REORDERED.items() if part in new), None)
        converted[new] = tensor if reorder is None else reorder(tensor)
    is_coco = _num_things(converted) == len(_COCO_NAMES)
    return DetectorFile(path, "torchvision", converted, _COCO_NAMES if is_coco else None, None)


def _mmdets_name(name: str) -> str:
    for pattern, new in _TORCHVISIONS.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    return name


_NORM = re.compile(r"((?:backbone\.fpn|roi_heads)\..+)\.1\.running_var")
_EPS = 1e-5
"""Of torch's batch norm."""


def fold_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, with every batch norm behind a convolution of torchvision's pyramid and heads made part of it, so that
    the convolution gives what both gave in evaluation mode."""
    folded = dict(tensors)
    for block in [match[1] for name in tensors if (match := _NORM.fullmatch(name))]:
        norm = {kind: folded.pop(f"{block}.1.{kind}") for kind in ("weight", "bias", "running_mean", "running_var")}
        folded.pop(f"{block}.1.num_batches_tracked", None)
        scale = norm["weight"] / (norm["running_var"] + _EPS).sqrt()
        folded[f"{block}.0.weight"] = folded[f"{block}.0.weight"] * scale[:, None, None, None]
        folded[f"{block}.0.bias"] = norm["bias"] - norm["running_mean"] * scale
    return folded
