"""What semantic heads learn from: the true classes of a batch, and cross entropy without void."""

import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.nn import functional as F

from antvisionps.models.blocks.whole_batch import shared_count
from antvisionps.panoptic.categories import VOID_CLASS_INDEX


def semantic_truth(samples: list[DetDataSample]) -> Tensor:
    """(N, H, W) int64 class indices of a padded batch, 255 where void."""
    return torch.cat([sample.gt_sem_seg.sem_seg for sample in samples])


def upsampled_cross_entropy(logits: Tensor, class_indices: Tensor) -> Tensor:
    """Mean cross entropy of (N, C, h, w) logits, resized bilinearly to the (N, H, W) truth, over its non-void pixels.

    Zero (with a gradient) where every pixel is void, so that such a batch does not make the loss NaN.
    """
    if logits.shape[-2:] != class_indices.shape[-2:]:
        logits = F.interpolate(logits, size=class_indices.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, class_indices, ignore_index=VOID_CLASS_INDEX, reduction="sum")
    return total / shared_count((class_indices != VOID_CLASS_INDEX).sum())
