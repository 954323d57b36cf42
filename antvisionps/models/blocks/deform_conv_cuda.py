"""Deformable convolution on a GPU: torchvision's kernel in float32, on tensors of any type.

Autocast's types do not suit that kernel: it knows no bfloat16, and float16 rounds the positions where it samples, to a
quarter of a cell beyond 256 cells. So it samples in float32. Under autocast its matrix product runs on tensor cores, in
TF32, which has float16's mantissa, and what the backward pass needs is kept in autocast's type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision  # noqa: F401  registers the kernels
from torch import Tensor
from torch.autograd.function import once_differentiable

from antvisionps.models.blocks.deform_conv_cpu import Geometry
from antvisionps.models.blocks.precision import widen


def deform_conv2d(
    geometry: Geometry,
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(N, C_out, H_out, W_out) in the offset's type; arguments and shapes as in deform_conv_cpu, differentiable."""
    no_mask, no_bias = offset.new_zeros(len(offset), 1), weight.new_zeros(len(weight))
    tensors = features, weight, offset, no_mask if mask is None else mask, no_bias if bias is None else bias
    return _DeformConv2d.apply((*geometry, mask is not None), *tensors)


class _DeformConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: tuple[int, ...], *tensors: Tensor) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(*tensors)
        offset = tensors[2]
        with _tensor_cores(where=_is_half(offset)):
            return torch.ops.torchvision.deform_conv2d(*map(widen, tensors), *settings).to(offset.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        with _tensor_cores(where=_is_half(gradient)):
            wide = torch.ops.torchvision._deform_conv2d_backward(*map(widen, (gradient, *tensors)), *ctx.settings)
        return None, *(of.to(tensor.dtype) for of, tensor in zip(wide, tensors, strict=True))


def _is_half(tensor: Tensor) -> bool:
    return tensor.element_size() == 2


@contextmanager
def _tensor_cores(*, where: bool) -> Iterator[None]:
    """TF32 in matrix products, where asked for."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or where
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
