"""RoIAlign on a CPU: compiled bilinear sampling, He et al., "Mask R-CNN", sec. 3.

torchvision's CPU kernels give the same numbers, one channel of one sample at a time.
"""

from collections.abc import Sequence

from torch import Tensor


def roi_align(
    features: Tensor, rois: Tensor, out_hw: tuple[int, int], *, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """(K, C, H_out, W_out) of features (N, C, H, W) in boxes.

    rois (K, 5) are the image's index, then xyxy in pixels, of which one is `scale` cells. sampling_ratio and aligned
    are as in torchvision.ops.roi_align.
    """
    from antvisionps.models.blocks import sampling_kernels

    pooled = features.new_zeros(len(rois), *out_hw, features.shape[1])
    cells = features.permute(0, 2, 3, 1).contiguous()
    sampling_kernels.roi_align(
        cells.numpy(), rois.contiguous().numpy(), scale, sampling_ratio, aligned, pooled.numpy(), False
    )
    return pooled.permute(0, 3, 1, 2)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    features_shape: Sequence[int],
    *,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(N, C, H, W), the gradient of the features, from that of the output, (K, C, H_out, W_out)."""
    from antvisionps.models.blocks import sampling_kernels

    images, channels, height, width = features_shape
    gradient = grad_output.new_zeros(images, height, width, channels)
    bins = grad_output.permute(0, 2, 3, 1).contiguous()
    sampling_kernels.roi_align(
        gradient.numpy(), rois.contiguous().numpy(), scale, sampling_ratio, aligned, bins.numpy(), True
    )
    return gradient.permute(0, 3, 1, 2)
