"""The GPU's deformable convolution; torchvision's kernels compute the same on a CPU, where it runs here."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from antvisionps.models.blocks.deform_conv_cpu import Geometry
from antvisionps.models.blocks.deform_conv_cuda import deform_conv2d

RECORDED = np.load(Path(__file__).parents[2] / "data" / "mmcv_ops_cpu.npz")
CASES = sorted({key.split("/")[0] for key in RECORDED.files if "deform_conv" in key})
PADDED = Geometry(1, 1, 1, 1, 1, 1, 1, 1)
ARGUMENTS = ("input", "weight", "offset", "mask", "bias")


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_compiled_mmcv(name):
    case = {key.split("/")[1]: torch.from_numpy(RECORDED[key]) for key in RECORDED.files if key.startswith(f"{name}/")}
    tensors = {key: case[key].clone().requires_grad_() for key in ARGUMENTS if key in case}
    steps = [int(case[key]) for key in ("stride", "padding", "dilation") for _ in range(2)]
    geometry = Geometry(*steps, int(case["groups"]), int(case["deform_groups"]))
    output = deform_conv2d(geometry, *tensors.values())
    output.backward(case["grad_output"])
    torch.testing.assert_close(output, case["output"], rtol=1e-4, atol=2e-5)
    for key, tensor in tensors.items():
        torch.testing.assert_close(tensor.grad, case[f"grad_{key}"], rtol=1e-4, atol=1e-4)


def autocast_tensors(hw, dtype):
    torch.manual_seed(0)
    features = F.interpolate(torch.randn(1, 4, hw[0] // 4 + 1, hw[1] // 4 + 1), size=hw, mode="bilinear")
    return features.to(dtype), torch.randn(4, 4, 3, 3) / 6, (2 * torch.randn(1, 18, *hw)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_types_lose_no_more_than_the_rounding_of_what_comes_and_goes(dtype):
    tensors = autocast_tensors((40, 336), dtype)
    exact = deform_conv2d(PADDED, *(t.double() for t in tensors))
    output = deform_conv2d(PADDED, *tensors)
    assert output.dtype == dtype
    assert (output - exact).norm() < torch.finfo(dtype).eps * exact.norm()
    if dtype == torch.float16:  # the kernel in float16 rounds where it samples
        features, weight, offset = (t.half() for t in tensors)
        half = torchvision.ops.deform_conv2d(features, offset, weight, padding=1)
        assert (half - exact).norm() > 10 * torch.finfo(dtype).eps * exact.norm()


def test_what_is_kept_for_the_backward_pass_is_what_came_and_gradients_have_its_types():
    tensors = [t.requires_grad_() for t in autocast_tensors((8, 12), torch.bfloat16)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = deform_conv2d(PADDED, *tensors)
    assert {t.data_ptr() for t in tensors} <= {t.data_ptr() for t in kept}
    assert sum(t.numel() for t in kept) < sum(t.numel() for t in tensors) + 10  # and a mask and a bias that are not
    before = torch.backends.cuda.matmul.allow_tf32
    output.float().square().sum().backward()
    assert torch.backends.cuda.matmul.allow_tf32 == before
    wide = [t.detach().double().requires_grad_() for t in tensors]
    deform_conv2d(PADDED, *wide).square().sum().backward()
    for tensor, exact in zip(tensors, wide, strict=True):
        assert tensor.grad.dtype == tensor.dtype
        assert (tensor.grad - exact.grad).norm() < 0.02 * exact.grad.norm()
