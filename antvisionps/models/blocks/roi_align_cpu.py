"""The gradient of RoIAlign on a CPU as matrix products.

Bilinear sampling and averaging over a box's bins work on rows and on columns apart, so what RoIAlign makes of a box is
rows @ features @ columns.T with two small matrices that follow from the box, and the gradient is their transposes'.
torchvision's CPU kernel scatters it sample by sample in one thread. The forward pass is torchvision's.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BOXES_AT_ONCE = 64  # bounds the half-way product, (boxes, bins, C, W)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    features_shape: Sequence[int],
    *,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(N, C, H, W), the gradient of the features, from that of the output, (K, C, H_out, W_out).

    rois (K, 5) are the image's index, then xyxy in pixels, of which one is `scale` cells. He et al., "Mask R-CNN",
    sec. 3; sampling_ratio and aligned as in torchvision.ops.roi_align.
    """
    _, channels, height, width = features_shape
    out_hw = (grad_output.shape[2], grad_output.shape[3])
    gradient = grad_output.new_zeros(tuple(features_shape))
    for image, chosen, rows, columns in _box_matrices(rois, (height, width), out_hw, scale, sampling_ratio, aligned):
        by_rows = grad_output[chosen].transpose(1, 2).reshape(len(chosen), out_hw[0] * channels, out_hw[1]) @ columns
        of_image = rows.flatten(0, 1).T @ by_rows.view(len(chosen) * out_hw[0], channels * width)
        gradient[image] += of_image.view(height, channels, width).transpose(0, 1)
    return gradient


def _box_matrices(
    rois: Tensor, hw: tuple[int, int], out_hw: tuple[int, int], scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Of some boxes of one image at a time: the image, the boxes' places in `rois`, and their row (boxes, H_out, H) and
    column (boxes, W_out, W) matrices."""
    x1, y1, x2, y2 = (rois[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(1)
    rows = _axis_matrices(y1, y2, hw[0], out_hw[0], sampling_ratio, aligned)
    columns = _axis_matrices(x1, x2, hw[1], out_hw[1], sampling_ratio, aligned)
    images = rois[:, 0].int()
    for image in images.unique().tolist():
        for chosen in (images == image).nonzero().squeeze(1).split(_BOXES_AT_ONCE):
            yield image, chosen, rows[chosen], columns[chosen]


def _axis_matrices(low: Tensor, high: Tensor, size: int, bins: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """(K, bins, size): how much of each cell along one axis is in each bin of the boxes from `low` to `high` (K,)."""
    extent = high - low if aligned else (high - low).clamp(min=1)
    bin_size = (extent / bins)[:, None, None]
    samples = torch.full_like(extent, sampling_ratio) if sampling_ratio > 0 else (extent / bins).ceil()
    samples = samples[:, None, None]
    sample = torch.arange(max(samples.flatten().int().tolist(), default=0), dtype=low.dtype)
    position = low[:, None, None] + torch.arange(bins, dtype=low.dtype)[:, None] * bin_size
    position = position + (sample + 0.5) * bin_size / samples.clamp(min=1)
    counts = (sample < samples) & (position >= -1) & (position <= size)
    position = torch.where(counts, position, 0).clamp(0, size - 1)
    cell = position.floor()
    weight = counts / samples.clamp(min=1)
    matrices = low.new_zeros(len(low), bins, size)
    matrices.scatter_add_(2, cell.long(), weight * (1 - (position - cell)))
    matrices.scatter_add_(2, (cell.long() + 1).clamp(max=size - 1), weight * (position - cell))
    return matrices
