"""Deformable convolution on a CPU against torchvision's own kernel, in float64."""

import pytest
import torch
import torchvision

from antvisionps.models.blocks.deform_conv_cpu import Geometry, deform_conv2d

GEOMETRIES = [
    Geometry(1, 1, 1, 1, 1, 1, groups=1, offset_groups=1),
    Geometry(2, 1, 1, 2, 1, 2, groups=2, offset_groups=1),
    Geometry(1, 2, 0, 0, 2, 1, groups=1, offset_groups=2),
    Geometry(2, 2, 3, 1, 1, 1, groups=2, offset_groups=4),
]
KERNEL = (3, 2)
KINDS = {
    "a few cells": lambda shape: 2 * torch.randn(shape),
    "mostly outside": lambda shape: 30 * torch.randn(shape),
    "none": torch.zeros,
    "whole cells": lambda shape: torch.randint(-4, 5, shape),
    "half cells": lambda shape: torch.randint(-9, 10, shape) / 2,
    "out of reach": lambda shape: torch.full(shape, -1e30),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("offsets", KINDS.values(), ids=KINDS)
def test_output_and_gradients_are_those_of_torchvisions_kernel(geometry, offsets):
    torch.manual_seed(11)
    features = torch.randn(3, 8, 7, 10, dtype=torch.float64)
    weight = torch.randn(6, 8 // geometry.groups, *KERNEL, dtype=torch.float64)
    steps = geometry[:2], geometry[2:4], geometry[4:6]
    plain = torch.nn.functional.conv2d(features, weight, None, *steps, geometry.groups)
    taps = geometry.offset_groups * KERNEL[0] * KERNEL[1]
    offset = offsets((3, 2 * taps, *plain.shape[2:])).double()

    def output_and_gradients(convolve):
        leaves = [tensor.clone().requires_grad_() for tensor in (features, weight, offset)]
        output = convolve(*leaves)
        torch.manual_seed(12)
        return output, torch.autograd.grad(
            output, leaves, torch.randn(output.shape, dtype=output.dtype), materialize_grads=True
        )

    ours = output_and_gradients(lambda *tensors: deform_conv2d(geometry, *tensors))
    theirs = output_and_gradients(lambda f, w, o: torchvision.ops.deform_conv2d(f, o, w, None, *steps))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_taps_without_offset_read_whole_cells_exactly_at_any_size():
    """Else the gradient would come from the cell on the wrong side of the kink."""
    geometry = Geometry(1, 1, 0, 0, 1, 1, groups=1, offset_groups=1)
    for height, width in ((1, 1), (5, 7), (100, 152), (333, 257)):
        features = torch.arange(float(height * width)).view(1, 1, height, width)
        offset = torch.zeros(1, 2, height, width)
        output = deform_conv2d(geometry, features, torch.ones(1, 1, 1, 1), offset)
        assert torch.equal(output, features)
