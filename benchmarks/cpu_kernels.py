"""How fast the networks' operators are on a CPU: torchvision's kernels and ours, in turn, in one run.

python -m benchmarks.cpu_kernels
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

from antvisionps.models.blocks.deform_conv_cpu import Geometry, deform_conv2d
from antvisionps.models.blocks.roi_align_cpu import roi_align_backward

CONVOLUTIONS = [(4, 48, 32, 40, 32), (1, 48, 40, 48, 32), (1, 256, 100, 152, 128)]
"""Images, channels, height, width, output channels: finest levels of the built-in networks and of a paper-size one."""
BOXES = [(4, 48, 36, 45, 128, 7), (4, 48, 36, 45, 64, 14), (1, 256, 200, 304, 256, 7)]
"""Images, channels, height, width, boxes, bins a side; likewise."""
ROUNDS = 7


def convolution(images: int, channels: int, height: int, width: int, out_channels: int) -> Iterator[Callable[[], None]]:
    """Forward and backward passes, theirs and ours."""
    geometry = Geometry(1, 1, 1, 1, 1, 1, groups=1, offset_groups=1)
    tensors = [
        torch.randn(images, channels, height, width, requires_grad=True),
        torch.randn(out_channels, channels, 3, 3, requires_grad=True),
        (2 * torch.randn(images, 18, height, width)).requires_grad_(),
    ]
    unread = [torch.zeros(images, 1), torch.zeros(out_channels)]  # a mask and a bias

    def passes(output: Tensor) -> None:
        torch.autograd.grad(output, tensors, torch.ones_like(output))

    yield lambda: passes(torch.ops.torchvision.deform_conv2d(*tensors, *unread, *geometry, False))
    yield lambda: passes(deform_conv2d(geometry, *tensors))


def box_gradient(
    images: int, channels: int, height: int, width: int, boxes: int, bins: int
) -> Iterator[Callable[[], None]]:
    """Backward passes of RoIAlign on features of stride 4, theirs and ours."""
    corners = torch.rand(boxes, 2) * torch.tensor([3.0 * width, 3.0 * height])
    opposite = corners + 8 + torch.rand(boxes, 2) * torch.tensor([float(width), float(height)])
    rois = torch.cat([torch.randint(images, (boxes, 1)).float(), corners, opposite], dim=1)
    grad_output = torch.randn(boxes, channels, bins, bins)
    shape = (images, channels, height, width)
    yield lambda: torch.ops.torchvision._roi_align_backward(grad_output, rois, 0.25, bins, bins, *shape, 0, True)
    yield lambda: roi_align_backward(grad_output, rois, shape, scale=0.25, sampling_ratio=0, aligned=True)


def best_ms(works: list[Callable[[], None]]) -> list[float]:
    """Of each, in rounds of one after the other."""
    times = []
    for _ in range(ROUNDS):
        for work in works:
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
    return [min(times[which :: len(works)]) for which in range(len(works))]


def main() -> None:
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}; the best of {ROUNDS} rounds"
    )
    for title, cases, make in (
        ("deformable convolution, forward and backward", CONVOLUTIONS, convolution),
        ("RoIAlign, backward", BOXES, box_gradient),
    ):
        print(f"\n{title:48}torchvision      ours  ratio")
        for case in cases:
            torch.manual_seed(0)
            theirs, ours = best_ms(list(make(*case)))
            print(f"  {', '.join(map(str, case)):46}{theirs:8.1f} ms{ours:7.1f} ms{theirs / ours:7.1f}", flush=True)


if __name__ == "__main__":
    main()
