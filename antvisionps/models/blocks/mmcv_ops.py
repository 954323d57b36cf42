"""mmcv's compiled operators, served by torchvision where they are missing.

mmdet needs `mmcv._ext`, a compiled module that no wheel carries for current versions of Python and torch. torchvision
ships the same kernels (CPU and CUDA) in every wheel. `install_ops` puts a module in the place of `mmcv._ext` that hands
each call to them, so that mmcv's and mmdet's own layers run unchanged. Call it before the first import of mmdet. On a
CPU, where torchvision's kernels are slow, deformable convolution comes from deform_conv_cpu and RoIAlign from
roi_align_cpu; on a GPU deform_conv_cuda calls the kernel under autocast.

A compiled mmcv that loads is left alone. Operators that no network here needs raise ModelError when called, not at
import.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Never

import torch
import torchvision
from torch import Tensor
from torch.nn.modules.utils import _pair

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks import deform_conv_cpu, deform_conv_cuda
from antvisionps.models.blocks.deform_conv_cpu import Geometry
from antvisionps.models.blocks.precision import widen
from antvisionps.models.blocks.roi_align_cpu import roi_align, roi_align_backward

EXT_NAME = "mmcv._ext"
SERVED_OPS = ("batched_nms", "deform_conv2d", "modulated_deform_conv2d", "nms", "roi_align")
"""The operators that torchvision serves in place of a compiled mmcv, as mmcv.ops spells them."""


@cache
def install_ops() -> str:
    """Makes mmcv's operators usable and returns whose kernels serve them, as "compiled mmcv 2.3.6" or
    "torchvision 0.29.1".

    A compiled `mmcv._ext` that fails to load (built for another torch, as a rule) is named in a warning and replaced.
    """
    if _compiled_ext_loads():
        return f"compiled mmcv {importlib.import_module('mmcv').__version__}"
    sys.modules[EXT_NAME] = _StandIn()
    _serve_deformable_convolutions()
    return f"torchvision {torchvision.__version__.partition('+')[0]}"


def _compiled_ext_loads() -> bool:
    spec = importlib.util.find_spec(EXT_NAME)
    if spec is None:
        return False
    try:
        importlib.import_module(EXT_NAME)
    except (ImportError, OSError) as error:
        warnings.warn(
            f"{spec.origin} does not load, so torchvision's kernels serve in its place: {error} (it was built for "
            f"another torch than {torch.__version__}, as a rule; reinstall onedl-mmcv to silence this)",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


class _StandIn(ModuleType):
    """What `import mmcv._ext` gives: the functions below by name, and for every other name one that refuses."""

    def __init__(self) -> None:
        super().__init__(EXT_NAME, __doc__)
        self.__spec__ = ModuleSpec(EXT_NAME, loader=None, origin="torchvision")
        self.nms = _nms
        self.roi_align_forward = _roi_align_forward
        self.roi_align_backward = _roi_align_backward
        self.get_compiler_version = lambda: "none"
        self.get_compiling_cuda_version = lambda: "none"

    def __getattr__(self, name: str) -> Callable[..., Never]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args: object, **kwargs: object) -> Never:
            raise ModelError(
                f"mmcv's operator {name} needs a compiled mmcv; torchvision serves only {', '.join(SERVED_OPS)}; "
                f"choose a model without it or build mmcv from source for torch {torch.__version__}"
            )

        return refuse


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """(K,) int64, kept rows of boxes (N, 4) xyxy by falling score; at equal scores the lower row comes first."""
    # With offset 1 a box covers x2 - x1 + 1 pixels: the same as an exclusive edge one pixel further.
    exclusive_xyxy = widen(boxes) + boxes.new_tensor([0, 0, offset, offset], dtype=torch.float32)
    return torch.ops.torchvision.nms(exclusive_xyxy, scores.to(exclusive_xyxy.dtype), iou_threshold)


def _roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, _argmax_y: Tensor, _argmax_x: Tensor, **how: Any
) -> None:
    """Fills output (K, C, aligned_height, aligned_width) from features (N, C, H, W) and rois (K, 5): index, xyxy."""
    if how["pool_mode"] == 0:
        raise ModelError("RoIAlign with pool_mode 'max' needs a compiled mmcv; torchvision has pool_mode 'avg' only")
    _refuse_wild_positions(rois, "RoIAlign: a box")
    features = widen(features)
    rois = rois.to(features.dtype)
    bins, scale = (how["aligned_height"], how["aligned_width"]), how["spatial_scale"]
    sampling = {"sampling_ratio": how["sampling_ratio"], "aligned": how["aligned"]}
    if features.device.type == "cpu":
        pooled = roi_align(features, rois, bins, scale=scale, **sampling)
    else:
        pooled = torch.ops.torchvision.roi_align(features, rois, scale, *bins, *sampling.values())
    output.copy_(pooled)


def _roi_align_backward(
    grad_output: Tensor, rois: Tensor, _argmax_y: Tensor, _argmax_x: Tensor, grad_input: Tensor, **how: Any
) -> None:
    grad_output = widen(grad_output)
    rois = rois.to(grad_output.dtype)
    shape, scale = grad_input.shape, how["spatial_scale"]
    sampling = {"sampling_ratio": how["sampling_ratio"], "aligned": how["aligned"]}
    if grad_output.device.type == "cpu":
        grad = roi_align_backward(grad_output, rois, shape, scale=scale, **sampling)
    else:
        bins = how["aligned_height"], how["aligned_width"]
        grad = torch.ops.torchvision._roi_align_backward(grad_output, rois, scale, *bins, *shape, *sampling.values())
    grad_input.copy_(grad)


def _refuse_wild_positions(positions: Tensor, what: str) -> None:
    """torchvision's CPU kernels read outside of their input at a position that is not a number, and crash Python."""
    if positions.device.type == "cpu" and not torch.isfinite(positions).all():
        raise ModelError(f"{what} is not finite; the training has diverged: lower the learning rate or max_grad_norm")


def _serve_deformable_convolutions() -> None:
    """Puts the two functions below wherever mmcv's modules hold its own.

    Replaced here and not in the stand-in, because torchvision's kernel gives all gradients in one call where mmcv asks
    for some at a time, and takes batches of any size.
    """
    importlib.import_module("mmcv.ops")
    for module in [module for name, module in sys.modules.items() if name.startswith("mmcv.ops")]:
        for function in (deform_conv2d, modulated_deform_conv2d):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


_Pair = int | tuple[int, int]


def deform_conv2d(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """modulated_deform_conv2d without mask and bias, by mmcv's arguments."""
    if bias:
        raise ModelError("deformable convolution v1 has no bias; add one after it or take the modulated one (DCNv2)")
    return modulated_deform_conv2d(
        features, offset, None, weight, None, stride, padding, dilation, groups, deform_groups
    )


def modulated_deform_conv2d(
    features: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """(N, C_out, H_out, W_out) of the offset's dtype, which is what autocast chose, as in mmcv; differentiable."""
    if features.dim() != 4:
        raise ModelError(f"deformable convolution: expected features (N, C, H, W), got shape {tuple(features.shape)}")
    _refuse_wild_positions(offset, "deformable convolution: an offset")
    geometry = Geometry._make([*_pair(stride), *_pair(padding), *_pair(dilation), groups, deform_groups])
    if features.device.type != "cpu":
        return deform_conv_cuda.deform_conv2d(geometry, features, weight, offset, mask, bias)
    wide, wide_weight, wide_offset = widen(features), widen(weight), widen(offset)
    mask, bias = (None if t is None else widen(t) for t in (mask, bias))
    return deform_conv_cpu.deform_conv2d(geometry, wide, wide_weight, wide_offset, mask, bias).to(offset.dtype)
