"""Deformable convolution and RoIAlign on a CPU, ours beside torchvision's kernels.

    python -m benchmarks.sampling --rounds 5

One thread; the features of two photos of 256 px, 48 channels. Prints milliseconds of the forward pass and of both
passes: the median over the rounds, in which the two take turns.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
import torchvision
from torch import Tensor

from antvisionps.models.blocks import mmcv_ops

CHANNELS, PHOTO_PX, REPEATS = 48, 256, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    mmcv_ops.install_ops()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'':44}{'ours':>8}{'both':>8}{'torchvision':>14}{'both':>8}")
    for stride in (4, 8, 16):
        compare(f"deformable convolution 3 x 3 at stride {stride}", *deformable(stride), rounds=rounds)
    for stride, boxes, bins in ((4, 128, 7), (4, 32, 14), (16, 128, 7)):
        compare(
            f"RoIAlign {bins} x {bins} of {boxes} boxes at stride {stride}",
            *roi_align(stride, boxes, bins),
            rounds=rounds,
        )


Layer = Callable[[], Tensor]


def deformable(stride: int) -> tuple[Layer, Layer]:
    from mmcv.ops import deform_conv2d

    features, cells = features_at(stride), PHOTO_PX // stride
    offset = torch.randn(2, 18, cells, cells, requires_grad=True)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, requires_grad=True)
    return (
        lambda: deform_conv2d(features, offset, weight, 1, 1),
        lambda: torchvision.ops.deform_conv2d(features, offset, weight, padding=1),
    )


def roi_align(stride: int, boxes: int, bins: int) -> tuple[Layer, Layer]:
    """Boxes with sides of 5 to 25 cells, as a pyramid gives them to its levels."""
    from mmcv.ops import RoIAlign

    features = features_at(stride)
    corners, sides = torch.rand(boxes, 2) * PHOTO_PX, (5 + 20 * torch.rand(boxes, 2)) * stride
    rois = torch.cat([torch.randint(2, (boxes, 1)), corners, corners + sides], dim=1)
    ours = RoIAlign(bins, spatial_scale=1 / stride)
    return (
        lambda: ours(features, rois),
        lambda: torchvision.ops.roi_align(features, rois, bins, 1 / stride, aligned=True),
    )


def features_at(stride: int) -> Tensor:
    return torch.randn(2, CHANNELS, PHOTO_PX // stride, PHOTO_PX // stride, requires_grad=True)


def compare(name: str, *layers: Layer, rounds: int) -> None:
    outputs = [layer() for layer in layers]  # numba's and torch's first calls take longer
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
    gradient = torch.randn(outputs[0].shape)
    times: list[list[float]] = [[] for _ in range(2 * len(layers))]
    for _ in range(rounds):
        for which, layer in enumerate(layers):
            times[2 * which].append(milliseconds(layer))
            times[2 * which + 1].append(milliseconds(lambda layer=layer: layer().backward(gradient)))
    ours, ours_both, theirs, theirs_both = map(median, times)
    print(f"{name:44}{ours:8.1f}{ours_both:8.1f}{theirs:14.1f}{theirs_both:8.1f}")


def milliseconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    for _ in range(REPEATS):
        call()
    return (perf_counter() - start) / REPEATS * 1e3


if __name__ == "__main__":
    main()
