"""One image through one or more networks, at one or more sizes and mirrored, all of which score the same proposals.

The scheme is that of mmdet's multi-scale test: proposals of all looks (a network at a size, mirrored or not) are merged
by NMS; every look scores the same boxes; boxes and class probabilities are averaged and pruned by NMS; every look draws
masks in the same surviving boxes, and mask logits are averaged. Semantic probabilities are averaged too. One network at
one size is the plain case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from mmdet.models.layers import multiclass_nms
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from antvisionps.models.blocks.resizing import resize_photo, resized_hw
from antvisionps.models.blocks.two_stage import BoxScorer
from antvisionps.predictions.schema import MASK_PROBS_SIZE

PROPOSAL_NMS_IOU = 0.7
"""Of proposals from several looks; the same as within one (mmdet's test_cfg.rpn)."""

MASK_THRESHOLD = 0.5
"""A pixel belongs to an instance from this probability on (He et al. 2017, section 3.1)."""


class SemanticScorer(Protocol):
    """An end at test time as far as its semantics go; a `BoxScorer` is one too."""

    def extract(self, images: Tensor) -> Any:
        """Features of a normalised, padded (1, 3, H, W) batch."""

    def semantic_probabilities(self, features: Any) -> Tensor:
        """(C, h, w) probabilities of all classes on the network's own output grid."""

    semantic_stride: int
    data_preprocessor: nn.Module


@dataclass(frozen=True)
class SemanticPrediction:
    """What the networks say of the classes in one image.

    `semantic_probs` (C, h, w) on a grid of `semantic_stride` pixels of the (input_hw) input that they saw.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    semantic_probs: np.ndarray
    semantic_stride: int


@dataclass(frozen=True)
class ImagePrediction(SemanticPrediction):
    """The same, and the instances at the image's original size.

    `boxes_xyxy` (N, 4) in pixels of the original image, best score first; `mask_probs` (N, 28, 28) inside the boxes.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray
    mask_probs: np.ndarray


@torch.inference_mode()
def predict_image(
    photo: np.ndarray,
    networks: Sequence[BoxScorer],
    weights: Sequence[float],
    *,
    short_sides_px: Sequence[int],
    max_long_side_px: int,
    flip: bool,
    min_score: float,
    nms_iou: float,
    max_instances: int,
) -> ImagePrediction:
    """Instances and semantics of an (H, W, 3) uint8 RGB photo, averaged over `networks` with `weights`.

    Every network sees the photo at each of `short_sides_px`, and with `flip` mirrored too; these views count alike. The
    first size is that of the semantic grid. Instances below `min_score` are left out, then per class those that overlap
    a better one by more than `nms_iou`, and the best `max_instances` remain.
    """
    image_hw = photo.shape[0], photo.shape[1]
    views = _views(image_hw, short_sides_px=short_sides_px, max_long_side_px=max_long_side_px, flip=flip)
    frame = views[0]
    looks = [Look.at(photo, network, view, frame) for network in networks for view in views]
    shares = _shares(weights, views)

    proposals = _merge_proposals([look.propose() for look in looks])
    boxes, scores, class_indices, mask_probs = _detect(
        looks, shares, proposals, min_score=min_score, nms_iou=nms_iou, max_instances=max_instances
    )
    semantic = _weighted_mean([look.semantic_probabilities() for look in looks], shares)

    scale_xyxy = boxes.new_tensor([image_hw[1] / frame.hw[1], image_hw[0] / frame.hw[0]] * 2)
    return ImagePrediction(
        image_hw=image_hw,
        input_hw=frame.hw,
        boxes_xyxy=(boxes * scale_xyxy).cpu().numpy(),
        scores=scores.cpu().numpy(),
        class_indices=class_indices.cpu().numpy(),
        mask_probs=mask_probs.cpu().numpy(),
        semantic_probs=semantic.cpu().numpy(),
        semantic_stride=networks[0].semantic_stride,
    )


def _detect(
    looks: Sequence[Look],
    shares: Sequence[float],
    proposals: Tensor,
    *,
    min_score: float,
    nms_iou: float,
    max_instances: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, class indices and mask probabilities that all looks together give the same proposals."""
    if len(proposals) == 0:  # the heads of mmdet's cascade take no empty list
        none = proposals.new_zeros(0)
        return proposals, none, none.long(), proposals.new_zeros(0, MASK_PROBS_SIZE, MASK_PROBS_SIZE)
    scored = [look.score_boxes(proposals) for look in looks]
    boxes = _weighted_mean([boxes for boxes, _ in scored], shares)
    probabilities = _weighted_mean([probabilities for _, probabilities in scored], shares)
    detections, class_indices = multiclass_nms(
        boxes, probabilities, min_score, {"type": "nms", "iou_threshold": nms_iou}, max_instances
    )
    boxes = detections[:, :4]
    mask_logits = _weighted_mean([look.mask_logits(boxes, class_indices) for look in looks], shares)
    return boxes, detections[:, 4], class_indices, mask_logits.sigmoid()


@torch.inference_mode()
def predict_semantics(
    photo: np.ndarray,
    networks: Sequence[SemanticScorer],
    weights: Sequence[float],
    *,
    short_sides_px: Sequence[int],
    max_long_side_px: int,
    flip: bool,
) -> SemanticPrediction:
    """The semantics alone, as `predict_image` has them, of networks that need not have instances."""
    image_hw = photo.shape[0], photo.shape[1]
    views = _views(image_hw, short_sides_px=short_sides_px, max_long_side_px=max_long_side_px, flip=flip)
    looks = (Look.at(photo, network, view, views[0]) for network in networks for view in views)
    semantic = _weighted_mean([look.semantic_probabilities() for look in looks], _shares(weights, views))
    return SemanticPrediction(image_hw, views[0].hw, semantic.cpu().numpy(), networks[0].semantic_stride)


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


def _views(
    image_hw: tuple[int, int], *, short_sides_px: Sequence[int], max_long_side_px: int, flip: bool
) -> list[View]:
    sizes = [resized_hw(image_hw, short_side_px=side, max_long_side_px=max_long_side_px) for side in short_sides_px]
    return [View(hw, mirrored) for hw in sizes for mirrored in ((False, True) if flip else (False,))]


def _shares(weights: Sequence[float], views: Sequence[View]) -> list[float]:
    """Of each look in the average; views count alike."""
    return [weight / sum(weights) / len(views) for weight in weights for _ in views]


@dataclass(frozen=True)
class Look:
    """One network on one view of the photo; takes and gives everything in pixels of `frame`, a view itself.

    `network` is a SemanticScorer, and a BoxScorer where boxes or masks are asked for.
    """

    network: Any
    view: View
    frame: View
    features: Any
    sample: DetDataSample

    @classmethod
    def at(cls, photo: np.ndarray, network: SemanticScorer, view: View, frame: View) -> Look:
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


def paste_mask(mask_probs: np.ndarray, box_xyxy: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(H, W) bool mask of an (m, m) probability grid stretched over its box.

    Bilinear at pixel centres, zero outside the grid, threshold 0.5 inclusive, cut at the image's border; equal to
    mmdet's pasting. Empty for a box outside the image or without area.
    """
    mask = np.zeros(image_hw, dtype=bool)
    x0, y0, x1, y1 = (float(edge) for edge in box_xyxy)
    left, right = max(int(np.floor(x0)) - 1, 0), min(int(np.ceil(x1)) + 1, image_hw[1])
    top, bottom = max(int(np.floor(y0)) - 1, 0), min(int(np.ceil(y1)) + 1, image_hw[0])
    if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
        return mask
    columns = (np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(x0)) / np.float32(x1 - x0) * 2 - 1
    rows = (np.arange(top, bottom, dtype=np.float32) + 0.5 - np.float32(y0)) / np.float32(y1 - y0) * 2 - 1
    grid = torch.from_numpy(np.stack(np.meshgrid(columns, rows), axis=-1)[None])
    probs = torch.from_numpy(np.ascontiguousarray(mask_probs, dtype=np.float32))[None, None]
    pasted = F.grid_sample(probs, grid, align_corners=False)[0, 0].numpy()
    mask[top:bottom, left:right] = pasted >= MASK_THRESHOLD
    return mask


def _network_input(photo: np.ndarray, network: SemanticScorer) -> tuple[Tensor, DetDataSample]:
    sample = DetDataSample(metainfo={"img_shape": photo.shape[:2], "scale_factor": (1.0, 1.0)})
    batch = {"inputs": [torch.from_numpy(photo.transpose(2, 0, 1).copy())], "data_samples": [sample]}
    prepared = network.data_preprocessor(batch, training=False)
    return prepared["inputs"], prepared["data_samples"][0]


def _merge_proposals(proposals: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(P, 4) boxes: one look's as they are; several looks' after NMS, as many as the most generous gave."""
    if len(proposals) == 1:
        return proposals[0][0]
    boxes = torch.cat([boxes for boxes, _ in proposals])
    scores = torch.cat([scores for _, scores in proposals])
    keep = nms(boxes, scores, PROPOSAL_NMS_IOU)[: max(len(boxes) for boxes, _ in proposals)]
    return boxes[keep]


def _weighted_mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    total = tensors[0] * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        total = total + tensor * share
    return total
