"""One image through one or more networks, at one or more sizes and mirrored, all of which score the same proposals.

The scheme is that of mmdet's multi-scale test: proposals of all passes (a network at a size, mirrored or not) are
merged by NMS; every pass scores the same boxes; boxes and class probabilities are averaged and pruned by NMS; every
pass draws masks in the same surviving boxes, and mask logits are averaged. Semantic probabilities are averaged too. One
network at one size is the plain case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from antvisionps.models.blocks.resizing import resize_photo, resized_hw
from antvisionps.models.blocks.two_stage import MASK_SIZE
from antvisionps.models.inference.scorers import SemanticScorer, has_boxes

PROPOSAL_NMS_IOU = 0.7
"""Of proposals from several passes; the same as within one (mmdet's test_cfg.rpn)."""


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How a photo is seen, and which instances remain.

    Every network sees it at each of `short_sides_px`, and with `flip` mirrored too; these views count alike. The first
    size is that of the semantic grid. Instances up to `min_score` are left out, then per class those that overlap a
    better one by more than `nms_iou`, and the best `max_instances` remain.
    """

    short_sides_px: Sequence[int]
    max_long_side_px: int
    flip: bool
    min_score: float
    nms_iou: float
    max_instances: int


@dataclass(frozen=True)
class DetectedInstances:
    """`boxes_xyxy` (N, 4) in pixels of the original image, best score first; `mask_probs` (N, 28, 28) inside the
    boxes."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray
    mask_probs: np.ndarray


@dataclass(frozen=True)
class ImagePrediction:
    """What the networks say of one image.

    `semantic_probs` (C, h, w) on a grid of `semantic_stride` pixels of the (input_hw) input that they saw; `instances`
    is None where the networks predict semantics alone.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    semantic_probs: np.ndarray
    semantic_stride: int
    instances: DetectedInstances | None


@torch.inference_mode()
def predict_image(
    photo: np.ndarray, networks: Sequence[SemanticScorer], weights: Sequence[float], settings: PredictionSettings
) -> ImagePrediction:
    """Instances and semantics of an (H, W, 3) uint8 RGB photo, averaged over `networks` with `weights`."""
    image_hw = photo.shape[0], photo.shape[1]
    views = _views(image_hw, settings)
    passes = [ForwardPass.of(photo, network, view, views[0]) for network in networks for view in views]
    shares = [weight / sum(weights) / len(views) for weight in weights for _ in views]
    instances = _detect(passes, shares, settings, image_hw) if has_boxes(networks[0]) else None
    semantic = _weighted_mean([one.semantic_probabilities() for one in passes], shares)
    return ImagePrediction(image_hw, views[0].hw, semantic.cpu().numpy(), networks[0].semantic_stride, instances)


def _detect(
    passes: Sequence[ForwardPass], shares: Sequence[float], settings: PredictionSettings, image_hw: tuple[int, int]
) -> DetectedInstances:
    """What all passes together find in the same proposals."""
    proposals = _merge_proposals([one.propose() for one in passes])
    if len(proposals) == 0:  # the heads of mmdet's cascade take no empty list
        none = np.zeros(0, np.float32)
        masks = np.zeros((0, MASK_SIZE, MASK_SIZE), np.float32)
        return DetectedInstances(none.reshape(0, 4), none, none.astype(np.int64), masks)
    scored = [one.score_boxes(proposals) for one in passes]
    detections, class_indices = multiclass_nms(
        _weighted_mean([boxes for boxes, _ in scored], shares),
        _weighted_mean([probabilities for _, probabilities in scored], shares),
        settings.min_score,
        {"type": "nms", "iou_threshold": settings.nms_iou},
        settings.max_instances,
    )
    boxes, scores = detections[:, :4], detections[:, 4]
    mask_logits = _weighted_mean([one.mask_logits(boxes, class_indices) for one in passes], shares)
    seen_hw = passes[0].frame.hw
    boxes = boxes * boxes.new_tensor([image_hw[1] / seen_hw[1], image_hw[0] / seen_hw[0]] * 2)
    found = (boxes, scores, class_indices, mask_logits.sigmoid())
    return DetectedInstances(*(tensor.cpu().numpy() for tensor in found))


@dataclass(frozen=True)
class View:
    """How a network sees the photo: resized to `hw`, then mirrored or not."""

    hw: tuple[int, int]
    mirrored: bool

    def map_boxes(self, boxes_xyxy: Tensor, source: View) -> Tensor:
        """Boxes (..., 4 * k) in pixels of `source`, in pixels of this view."""
        height, width = self.hw
        boxes = boxes_xyxy.unflatten(-1, (-1, 4))
        boxes = boxes * boxes.new_tensor([width / source.hw[1], height / source.hw[0]] * 2)
        if self.mirrored != source.mirrored:
            left, top, right, bottom = boxes.unbind(dim=-1)
            boxes = torch.stack([width - right, top, width - left, bottom], dim=-1)
        return boxes.flatten(-2)


def _views(image_hw: tuple[int, int], settings: PredictionSettings) -> list[View]:
    sizes = [
        resized_hw(image_hw, short_side_px=side, max_long_side_px=settings.max_long_side_px)
        for side in settings.short_sides_px
    ]
    return [View(hw, mirrored) for hw in sizes for mirrored in ((False, True) if settings.flip else (False,))]


@dataclass(frozen=True)
class ForwardPass:
    """One network on one view of the photo; takes and gives everything in pixels of `frame`, a view itself.

    `network` is a SemanticScorer, and a BoxScorer where boxes or masks are asked for.
    """

    network: Any
    view: View
    frame: View
    features: Any
    sample: DetDataSample

    @classmethod
    def of(cls, photo: np.ndarray, network: SemanticScorer, view: View, frame: View) -> ForwardPass:
        resized = resize_photo(photo, view.hw)
        images, sample = _network_input(resized[:, ::-1] if view.mirrored else resized, network)
        return cls(network, view, frame, network.extract(images), sample)

    def propose(self) -> tuple[Tensor, Tensor]:
        boxes, scores = self.network.propose(self.features, self.sample)
        return self.frame.map_boxes(boxes, self.view), scores

    def score_boxes(self, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.view.map_boxes(boxes_xyxy, self.frame)
        refined, probabilities = self.network.score_boxes(self.features, seen, self.view.hw)
        return self.frame.map_boxes(refined, self.view), probabilities

    def mask_logits(self, boxes_xyxy: Tensor, class_indices: Tensor) -> Tensor:
        seen = self.view.map_boxes(boxes_xyxy, self.frame)
        logits = self.network.mask_logits(self.features, seen, class_indices)
        return logits.flip(-1) if self.view.mirrored != self.frame.mirrored else logits

    def semantic_probabilities(self) -> Tensor:
        """(C, h, w) on the network's grid over `frame`, without the padding."""
        stride = self.network.semantic_stride
        rows, columns = (-(-side // stride) for side in self.view.hw)
        seen = self.network.semantic_probabilities(self.features)[:, :rows, :columns]
        if self.view == self.frame:
            return seen
        # Of each cell's centre in the frame the place in the view, then in grid_sample's coordinates, -1 to 1.
        axes = []
        for side, frame_side, cells in zip(self.view.hw, self.frame.hw, (rows, columns), strict=True):
            centres = (torch.arange(-(-frame_side // stride), device=seen.device) + 0.5) * stride
            axes.append(centres * (side / frame_side) / (stride * cells))
        y, x = axes
        if self.view.mirrored != self.frame.mirrored:
            x = self.view.hw[1] / (stride * columns) - x
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) * 2 - 1
        return F.grid_sample(seen[None], grid[None], padding_mode="border", align_corners=False)[0]


def _network_input(photo: np.ndarray, network: SemanticScorer) -> tuple[Tensor, DetDataSample]:
    sample = DetDataSample(metainfo={"img_shape": photo.shape[:2], "scale_factor": (1.0, 1.0)})
    batch = {"inputs": [torch.from_numpy(photo.transpose(2, 0, 1).copy())], "data_samples": [sample]}
    prepared = network.data_preprocessor(batch, training=False)
    return prepared["inputs"], prepared["data_samples"][0]


def _merge_proposals(proposals: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(P, 4) boxes: one pass's as they are; several passes' after NMS, as many as the most generous gave."""
    if len(proposals) == 1:
        return proposals[0][0]
    boxes = torch.cat([boxes for boxes, _ in proposals])
    scores = torch.cat([scores for _, scores in proposals])
    keep = nms(boxes, scores, PROPOSAL_NMS_IOU)[: max(len(boxes) for boxes, _ in proposals)]
    return boxes[keep]


def _weighted_mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first, *others = (tensor * share for tensor, share in zip(tensors, shares, strict=True))
    return sum(others, start=first)
