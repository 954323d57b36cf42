"""How fast deformable convolution is on a CPU: torchvision's kernel and ours, in turn, in one run.

python -m benchmarks.deform_conv
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from antvisionps.models.deform_conv_cpu import Geometry, deform_conv2d

GEOMETRY = Geometry(1, 1, 1, 1, 1, 1, groups=1, offset_groups=1, has_mask=True)
SHAPES = [(4, 48, 32, 40, 32), (1, 48, 40, 48, 32), (1, 256, 100, 152, 128)]
"""Images, channels, height, width, output channels: finest levels of the built-in networks and of a paper-size one."""
ROUNDS = 5


def ours(*tensors: Tensor) -> Tensor:
    return deform_conv2d(*tensors, GEOMETRY)


def torchvisions(*tensors: Tensor) -> Tensor:
    return torch.ops.torchvision.deform_conv2d(*tensors, *GEOMETRY)


def seconds(convolve: Callable[..., Tensor], tensors: list[Tensor]) -> tuple[float, float]:
    """Of the forward pass, and of the backward pass."""
    start = time.perf_counter()
    output = convolve(*tensors)
    between = time.perf_counter()
    torch.autograd.grad(output, tensors, torch.ones_like(output))
    return between - start, time.perf_counter() - between


def main() -> None:
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}; the best of {ROUNDS} rounds, milliseconds"
    )
    print(f"{'N, C, H, W, C_out':>24}  {'torchvision':>17}  {'ours':>17}  ratio")
    for images, channels, height, width, out_channels in SHAPES:
        torch.manual_seed(0)
        tensors = [
            torch.randn(images, channels, height, width),
            torch.randn(out_channels, channels, 3, 3),
            2 * torch.randn(images, 18, height, width),
            torch.rand(images, 9, height, width),
            torch.zeros(out_channels),
        ]
        for tensor in tensors:
            tensor.requires_grad_()
        rounds = [(seconds(torchvisions, tensors), seconds(ours, tensors)) for _ in range(ROUNDS)]
        theirs, own = (tuple(map(min, zip(*(pair[who] for pair in rounds), strict=True))) for who in (0, 1))
        shape = f"{images}, {channels}, {height}, {width}, {out_channels}"
        columns = ["  ".join(f"{1e3 * part:7.1f}" for part in side) for side in (theirs, own)]
        print(f"{shape:>24}  {columns[0]:>17}  {columns[1]:>17}  {sum(theirs) / sum(own):5.1f}", flush=True)


if __name__ == "__main__":
    main()
