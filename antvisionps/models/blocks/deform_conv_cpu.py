"""Deformable convolution on a CPU: compiled bilinear sampling and a matrix product.

torchvision's CPU kernel gives the same numbers, one channel of one output position at a time.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Geometry(NamedTuple):
    """In the order of torchvision's kernel; distances in cells of the features."""

    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int
    dilation_y: int
    dilation_x: int
    groups: int
    offset_groups: int


def deform_conv2d(
    geometry: Geometry,
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(N, C_out, H_out, W_out) of features (N, C, H, W), differentiable; Dai et al., "Deformable Convolutional
    Networks", eqs. 2 and 3, and with a mask Zhu et al., "Deformable ConvNets v2", eq. 1.

    weight is (C_out, C / groups, K_y, K_x); offset (N, offset_groups x K_y K_x x 2, H_out, W_out) in cells, y before x;
    mask (N, offset_groups x K_y K_x, H_out, W_out). What lies outside is zero.
    """
    images, channels, height, width = features.shape
    out_channels, _, *kernel = weight.shape
    taps, out_hw = kernel[0] * kernel[1], offset.shape[-2:]
    groups, offset_groups = geometry.groups, geometry.offset_groups
    out = out_hw[0] * out_hw[1]

    parts = features.reshape(images * offset_groups, channels // offset_groups, height, width)
    tap_positions = _tap_positions(kernel, (out_hw[0], out_hw[1]), geometry, offset.dtype)
    positions = offset.view(images, offset_groups, taps, 2, *out_hw) + tap_positions
    positions = positions.permute(0, 1, 4, 5, 2, 3).reshape(images * offset_groups, out * taps, 2).contiguous()
    sampled = _Sample.apply(parts.permute(0, 2, 3, 1).contiguous(), positions)
    sampled = sampled.view(images, offset_groups, out, taps, channels // offset_groups)
    if mask is not None:
        sampled = sampled * mask.view(images, offset_groups, taps, out).transpose(2, 3)[..., None]
    columns = sampled.permute(0, 2, 3, 1, 4).reshape(images * out, taps, groups, channels // groups)
    columns = columns.permute(2, 0, 1, 3).reshape(groups, images * out, taps * channels // groups)
    kernels = weight.view(groups, out_channels // groups, channels // groups, taps)
    product = columns @ kernels.permute(0, 3, 2, 1).reshape(groups, columns.shape[2], out_channels // groups)
    output = product.transpose(0, 1).reshape(images, *out_hw, out_channels).permute(0, 3, 1, 2)
    return output if bias is None else output + bias.view(-1, 1, 1)


class _Sample(torch.autograd.Function):
    """(N, P, C): features (N, H, W, C) at positions (N, P, 2)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, positions: Tensor) -> Tensor:
        from antvisionps.models.blocks.sampling_kernels import sample

        ctx.save_for_backward(features, positions)
        sampled = features.new_empty(*positions.shape[:2], features.shape[3])
        sample(features.numpy(), positions.numpy(), sampled.numpy())
        return sampled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        from antvisionps.models.blocks.sampling_kernels import sample_backward

        features, positions = ctx.saved_tensors
        of_features, of_positions = torch.zeros_like(features), torch.empty_like(positions)
        arrays = (t.numpy() for t in (features, positions, gradient.contiguous(), of_features, of_positions))
        sample_backward(*arrays)
        return of_features, of_positions


def _tap_positions(kernel: list[int], out_hw: tuple[int, int], geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """(K_y K_x, 2, H_out, W_out): the y and x that each tap of each output position has without an offset, in cells."""
    g = geometry
    y, x = (
        (torch.arange(taps) * dilation)[:, None] + torch.arange(out) * stride - padding
        for taps, dilation, out, stride, padding in (
            (kernel[0], g.dilation_y, out_hw[0], g.stride_y, g.padding_y),
            (kernel[1], g.dilation_x, out_hw[1], g.stride_x, g.padding_x),
        )
    )
    both = torch.broadcast_tensors(y[:, None, :, None], x[None, :, None, :])
    return torch.stack(both, dim=2).flatten(0, 1).to(dtype)
