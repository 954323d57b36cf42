"""UPSNet's parameter-free panoptic head in training (Xiong et al. 2019, section 3.3).

It makes one logit per stuff class, one per instance and one for "unknown" out of the semantic logits and of the mask
logits in ground-truth boxes, so that cross entropy over them teaches both heads to agree. Everything happens on the
semantic grid, at stride 4.
"""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.nn import functional as F

from antvisionps.models.blocks.whole_batch import shared_count

IGNORED = -100
"""No channel is right here; torch's cross entropy knows it by this number."""


def choose_known_instances(samples: list[DetDataSample], *, unknown_frac: float) -> list[Tensor]:
    """Of each image which true instances get a channel, (N,) bool; each is left out with probability `unknown_frac`.

    Drawn from torch's CPU generator whatever the device.
    """
    boxes = [sample.gt_instances.bboxes for sample in samples]
    return [(torch.rand(len(b)) >= unknown_frac).to(b.device) for b in boxes]


def panoptic_loss(
    semantic_logits: Tensor,
    mask_logits: list[Tensor],
    samples: list[DetDataSample],
    known: list[Tensor],
    *,
    num_things: int,
) -> Tensor:
    """Mean cross entropy of the panoptic logits over all cells of the batch that are neither void nor crowd.

    `semantic_logits` (N, C, h, w); `mask_logits` of each image's known instances (K, m, m), in their boxes. Zero (with
    a gradient) where there is no such cell.
    """
    total = semantic_logits.sum() * 0
    count = torch.zeros((), device=total.device)
    for logits, masks, sample, kept in zip(semantic_logits, mask_logits, samples, known, strict=True):
        truth = panoptic_truth(sample, kept, num_things=num_things, semantic_shape=tuple(logits.shape))
        stride = sample.gt_sem_seg.sem_seg.shape[-1] / logits.shape[-1]
        boxes, labels = sample.gt_instances.bboxes[kept], sample.gt_instances.labels[kept]
        scores = panoptic_logits(logits, masks, boxes / stride, labels, num_things=num_things)
        total = total + F.cross_entropy(scores[None], truth[None], ignore_index=IGNORED, reduction="sum")
        count += (truth != IGNORED).sum()
    return total / shared_count(count)


def panoptic_logits(
    semantic_logits: Tensor, mask_logits: Tensor, boxes_xyxy: Tensor, class_indices: Tensor, *, num_things: int
) -> Tensor:
    """(S + K + 1, h, w) for S stuff classes, K instances and unknown, from (C, h, w) and (K, m, m) logits.

    Stuff keeps its semantic logits. An instance has the semantic logit of its class plus its mask logit, resized
    bilinearly into its box; both are zero in cells whose centre lies outside it (`boxes_xyxy` (K, 4) in cells). Unknown
    is the highest thing logit less the highest of the instances' cropped semantic logits.
    """
    things, stuff = semantic_logits[:num_things], semantic_logits[num_things:]
    left, top, right, bottom = boxes_xyxy.unbind(dim=1)
    rows, in_rows = _resampling(top, bottom, semantic_logits.shape[-2], mask_logits.shape[-2])
    columns, in_columns = _resampling(left, right, semantic_logits.shape[-1], mask_logits.shape[-1])
    # Resizing is one matrix product per axis; the matrices' rows are zero outside the box.
    masks = rows @ mask_logits.to(rows.dtype) @ columns.transpose(1, 2)
    cropped = things[class_indices] * (in_rows[:, :, None] & in_columns[:, None, :])
    best_cropped = cropped.amax(dim=0, keepdim=True) if len(cropped) else 0.0
    return torch.cat([stuff, cropped + masks, things.amax(dim=0, keepdim=True) - best_cropped])


def panoptic_truth(sample: DetDataSample, known: Tensor, *, num_things: int, semantic_shape: tuple[int, ...]) -> Tensor:
    """(h, w) int64: the channel of `panoptic_logits` that is right at each cell's centre.

    `semantic_shape` is (C, h, w) of the semantic logits. Instances that are not known are "unknown"; void and crowds
    are IGNORED. An instance counts where the semantics have its class, the first of several: annotated apart from the
    map, masks reach behind what is in front.
    """
    num_stuff = semantic_shape[0] - num_things
    full = sample.gt_sem_seg.sem_seg[0].long()
    rows, columns = (_centres(cells, size) for cells, size in zip(semantic_shape[1:], full.shape, strict=True))
    classes = full[rows][:, columns]
    stuff = classes - num_things
    truth = torch.where((stuff >= 0) & (stuff < num_stuff), stuff, IGNORED)
    if len(known):
        masks = torch.from_numpy(sample.gt_instances.masks.masks[:, rows][:, :, columns] > 0).to(truth.device)
        masks &= classes == sample.gt_instances.labels[:, None, None].to(truth.device)
        channels = torch.where(known, num_stuff + known.cumsum(0) - 1, num_stuff + known.sum())
        truth = torch.where(masks.any(dim=0), channels[masks.int().argmax(dim=0)], truth)
    return truth


def _resampling(low: Tensor, high: Tensor, cells: int, samples: int) -> tuple[Tensor, Tensor]:
    """Bilinear weights (K, cells, samples) of `samples` spread over each [low, high), and which cells lie inside."""
    centres = torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5
    inside = (centres >= low[:, None]) & (centres < high[:, None])
    places = (centres - low[:, None]) / (high - low)[:, None] * samples - 0.5
    distances = (places.clamp(0, samples - 1)[..., None] - torch.arange(samples, device=low.device)).abs()
    return (1 - distances).clamp(min=0) * inside[..., None], inside


def _centres(cells: int, size: int) -> np.ndarray:
    """The pixel at the centre of each cell, along one axis."""
    return ((np.arange(cells) + 0.5) * size / cells).astype(np.int64)
