"""What semantic heads learn from: the true classes of a batch, and cross entropy without void."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from antvisionps.models.blocks.whole_batch import shared_count
from antvisionps.panoptic.categories import VOID_CLASS_INDEX


def semantic_truth(samples: list[DetDataSample]) -> Tensor:
    """(N, H, W) int64 class indices of a padded batch, 255 where void."""
    return torch.cat([sample.gt_sem_seg.sem_seg for sample in samples]).long()


def upsampled_cross_entropy(logits: Tensor, class_indices: Tensor) -> Tensor:
    """Mean cross entropy of (N, C, h, w) logits, resized bilinearly to the (N, H, W) truth, over its non-void pixels.

    Zero (with a gradient) where every pixel is void, so that such a batch does not make the loss NaN.
    """
    return SummedCrossEntropy.apply(logits, class_indices) / shared_count((class_indices != VOID_CLASS_INDEX).sum())


STRIP_ELEMENTS = 2**24
"""Logits at the photos' size that are held at a time: 64 MiB in float32, and as much for each of their derivatives."""


class SummedCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropy of (N, C, h, w) logits, resized bilinearly to the (N, H, W) truth, over non-void pixels.

    It goes over strips of the photos and computes the gradient with the value, so that nothing has C planes of the
    photos' size. It computes in float32 at least. Where H is no multiple of h, the photos are one strip.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, class_indices: Tensor) -> Tensor:
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        total, gradient = wide.new_zeros(()), torch.zeros_like(wide)
        for around, truth in _strips(logits.shape, class_indices):
            with torch.enable_grad():
                strip = wide[:, :, around].requires_grad_()
                loss = _summed_cross_entropy(strip, truth)
            total += loss.detach()
            gradient[:, :, around] += torch.autograd.grad(loss, strip)[0]
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * of_total).to(ctx.dtype), None


def _summed_cross_entropy(logits: Tensor, class_indices: Tensor) -> Tensor:
    if logits.shape[-2:] != class_indices.shape[-2:]:
        logits = F.interpolate(logits, size=class_indices.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, class_indices, ignore_index=VOID_CLASS_INDEX, reduction="sum")


def _strips(logits_shape: Sequence[int], class_indices: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the logits, and the truth of their pixels. Each strip has a row more above and below, which bilinear
    resizing reads; the truth there is void."""
    images, classes, rows, _ = logits_shape
    height, width = class_indices.shape[-2:]
    scale, rest = divmod(height, rows)
    step = rows if rest else max(STRIP_ELEMENTS // max(images * classes * scale * width, 1), 1)
    if step >= rows:
        yield slice(0, rows), class_indices
        return
    for top in range(0, rows, step):
        around = slice(max(top - 1, 0), min(top + step + 1, rows))
        truth = class_indices[:, scale * around.start : scale * around.stop].clone()
        truth[:, : scale * (top - around.start)] = VOID_CLASS_INDEX
        truth[:, scale * (top + step - around.start) :] = VOID_CLASS_INDEX
        yield around, truth
