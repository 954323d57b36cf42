"""Deformable convolution on a CPU, composed of torch's own bilinear sampling and a matrix product.

torchvision's CPU kernel gives the same numbers, one output position at a time in one thread.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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
    taps, (out_height, out_width) = kernel[0] * kernel[1], offset.shape[-2:]
    groups, offset_groups = geometry.groups, geometry.offset_groups

    # grid_sample takes positions relative to the features' size. Where that is a power of two the way there and back is
    # exact for whole cells, so that a tap that has no offset reads the one cell it stands on.
    powers_of_two = (_power_of_two(height), _power_of_two(width))
    padded = F.pad(features, (0, powers_of_two[1] - width, 0, powers_of_two[0] - height))
    positions = offset.view(images, offset_groups, taps, 2, out_height, out_width) + _tap_positions(
        kernel, (out_height, out_width), geometry, offset.dtype
    )
    y, x = ((2 * p + 1) / size - 1 for p, size in zip(positions.unbind(3), powers_of_two, strict=True))
    sampled = F.grid_sample(
        padded.view(images * offset_groups, channels // offset_groups, *powers_of_two),
        torch.stack([x, y], dim=-1).view(images * offset_groups, taps * out_height, out_width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    if mask is not None:
        sampled = sampled * mask.view(images * offset_groups, 1, taps * out_height, out_width)
    columns = sampled.reshape(images, groups, channels // groups * taps, out_height * out_width)
    product = weight.reshape(groups, out_channels // groups, -1) @ columns
    output = product.view(images, out_channels, out_height, out_width)
    return output if bias is None else output + bias.view(-1, 1, 1)


def _power_of_two(size: int) -> int:
    """The least that is not below `size`."""
    return 1 << (size - 1).bit_length()


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
