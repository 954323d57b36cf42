"""What both ends share: pyramid, region proposals, RoI heads as mmdet configs, and how an end scores given boxes."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from antvisionps.models.blocks.backbones import BackboneSpec
from antvisionps.panoptic.categories import VOID_CLASS_INDEX

STRIDES = (4, 8, 16, 32, 64)
"""P2 to P6, the last a max-pool of P5 (Lin et al. 2017)."""

ROI_STRIDES = STRIDES[:4]
BOX_ROI_SIZE = 7
MASK_ROI_SIZE = 14
MASK_SIZE = 2 * MASK_ROI_SIZE
"""Side of a predicted mask: the mask head doubles its RoI features once (He et al. 2017, figure 4)."""


@runtime_checkable
class BoxScorer(Protocol):
    """An end at test time, in the four steps that let several networks score the same boxes.

    Boxes are xyxy in pixels of the network's input. `features` is whatever `extract` returned for one image.
    """

    def extract(self, images: Tensor) -> Any:
        """Features of a normalised, padded (1, 3, H, W) batch; computed once, used by all other steps."""

    def propose(self, features: Any, sample: DetDataSample) -> tuple[Tensor, Tensor]:
        """Region proposals: boxes (P, 4) and objectness scores (P,), best first."""

    def score_boxes(self, features: Any, boxes_xyxy: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Refined boxes (P, 4) or (P, 4 * things), and class probabilities (P, things + 1), background last."""

    def mask_logits(self, features: Any, boxes_xyxy: Tensor, class_indices: Tensor) -> Tensor:
        """(K, 28, 28) mask logits inside each box, of its class."""

    def semantic_probabilities(self, features: Any) -> Tensor:
        """(C, h, w) probabilities of all classes on the network's own output grid."""

    semantic_stride: int
    """Pixels of the input between the cells of that grid."""

    data_preprocessor: nn.Module
    """Normalises and pads a batch, as in training."""


def data_preprocessor(backbone: BackboneSpec) -> dict[str, Any]:
    """Normalises RGB images and pads image, masks (0) and semantic truth (void) to a multiple of 32."""
    return {
        "type": DetDataPreprocessor,
        "mean": backbone.mean_rgb,
        "std": backbone.std_rgb,
        "pad_size_divisor": 32,
        "pad_mask": True,
        "pad_seg": True,
        "seg_pad_value": VOID_CLASS_INDEX,
    }


def fpn(backbone: BackboneSpec, channels: int) -> dict[str, Any]:
    return {"type": FPN, "in_channels": list(backbone.channels), "out_channels": channels, "num_outs": len(STRIDES)}


def rpn_head(*, channels: int, anchor_scale: float) -> dict[str, Any]:
    """Three anchors a cell, of side `anchor_scale` x stride."""
    return {
        "type": RPNHead,
        "in_channels": channels,
        "feat_channels": channels,
        "anchor_generator": {
            "type": AnchorGenerator,
            "scales": [anchor_scale],
            "ratios": [0.5, 1.0, 2.0],
            "strides": list(STRIDES),
        },
        "bbox_coder": _box_coder((1.0, 1.0, 1.0, 1.0)),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0 / 9.0, "loss_weight": 1.0},
    }


@MODELS.register_module()
class RoIExtractor(SingleRoIExtractor):
    """mmdet's extractor (each RoI from the level of its size), with boxes in float32 whatever the features are.

    mmdet rounds boxes to the features' type. Under bfloat16 autocast that moves an edge beyond 1024 px by up to 4 px.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """(K, C, size, size) of (K, 5) RoIs: index in the batch, box xyxy."""
        rois = rois.float()
        levels = self.map_roi_levels(rois, len(feats))
        pooled = feats[0].new_zeros(len(rois), self.out_channels, *self.roi_layers[0].output_size)
        for index, (layer, level) in enumerate(zip(self.roi_layers, feats, strict=True)):
            (rows,) = (levels == index).nonzero(as_tuple=True)
            pooled[rows] = layer(level, rois[rows])
        return pooled


def roi_extractor(*, channels: int, size: int, strides: tuple[int, ...] = ROI_STRIDES) -> dict[str, Any]:
    return {
        "type": RoIExtractor,
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": channels,
        "featmap_strides": list(strides),
    }


def box_head(
    *, channels: int, fc_channels: int, num_things: int, class_agnostic: bool, target_stds: tuple[float, ...]
) -> dict[str, Any]:
    """Two shared fully connected layers, then class scores and box deltas."""
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": channels,
        "fc_out_channels": fc_channels,
        "roi_feat_size": BOX_ROI_SIZE,
        "num_classes": num_things,
        "bbox_coder": _box_coder(target_stds),
        "reg_class_agnostic": class_agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    }


def mask_head(*, kind: str, channels: int, num_convs: int, num_things: int, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "num_convs": num_convs,
        "in_channels": channels,
        "conv_out_channels": channels,
        "num_classes": num_things,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        **settings,
    }


def rpn_train_cfg(*, max_proposals: int) -> dict[str, Any]:
    """Anchor assignment and the proposals that the RoI heads train on."""
    return {
        "rpn": {
            "assigner": _assigner(positive_iou=0.7, negative_iou=0.3, match_low_quality=True),
            "sampler": _sampler(num=256, positive_frac=0.5, add_gt=False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": rpn_test_cfg(max_proposals=max_proposals),
    }


def rpn_test_cfg(*, max_proposals: int) -> dict[str, Any]:
    nms = {"type": "nms", "iou_threshold": 0.7}
    return {"nms_pre": 2 * max_proposals, "max_per_img": max_proposals, "nms": nms, "min_bbox_size": 0}


def rcnn_train_cfg(*, rois_per_image: int, positive_iou: float) -> dict[str, Any]:
    return {
        "assigner": _assigner(positive_iou=positive_iou, negative_iou=positive_iou, match_low_quality=False),
        "sampler": _sampler(num=rois_per_image, positive_frac=0.25, add_gt=True),
        "mask_size": MASK_SIZE,
        "pos_weight": -1,
        "debug": False,
    }


def test_cfg(*, max_proposals: int) -> ConfigDict:
    """Only the region proposals: final scoring is `inference`'s, so that several networks can share the boxes."""
    return ConfigDict(rpn=rpn_test_cfg(max_proposals=max_proposals), rcnn=None)


def propose_with_rpn(rpn: RPNHead, pyramid: tuple[Tensor, ...], sample: DetDataSample) -> tuple[Tensor, Tensor]:
    """Proposals of one image: boxes (P, 4) xyxy and scores (P,), best first."""
    (proposals,) = rpn.predict(pyramid, [sample], rescale=False)
    return proposals.bboxes, proposals.scores


def rois_of_one_image(boxes_xyxy: Tensor) -> Tensor:
    """(N, 5) RoIs: the image's index in the batch, here 0, then the box."""
    return torch.cat([boxes_xyxy.new_zeros(len(boxes_xyxy), 1), boxes_xyxy], dim=1)


def without_classes(sample: DetDataSample) -> DetDataSample:
    """What the region proposal network learns from: the boxes, all of class 0, and the boxes to ignore."""
    boxes = sample.gt_instances.bboxes
    truth = DetDataSample(metainfo=sample.metainfo)
    truth.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros_like(sample.gt_instances.labels))
    truth.ignored_instances = sample.ignored_instances
    return truth


def semantic_truth(samples: list[DetDataSample]) -> Tensor:
    """(N, H, W) int64 class indices of a padded batch, 255 where void."""
    return torch.cat([sample.gt_sem_seg.sem_seg for sample in samples])


def _box_coder(target_stds: tuple[float, ...]) -> dict[str, Any]:
    return {"type": DeltaXYWHBBoxCoder, "target_means": (0.0, 0.0, 0.0, 0.0), "target_stds": target_stds}


def _assigner(*, positive_iou: float, negative_iou: float, match_low_quality: bool) -> dict[str, Any]:
    return {
        "type": MaxIoUAssigner,
        "pos_iou_thr": positive_iou,
        "neg_iou_thr": negative_iou,
        "min_pos_iou": negative_iou if match_low_quality else positive_iou,
        "match_low_quality": match_low_quality,
        # Anchors and proposals that lie in a crowd are neither positive nor negative.
        "ignore_iof_thr": 0.5,
    }


def _sampler(*, num: int, positive_frac: float, add_gt: bool) -> dict[str, Any]:
    return {"type": RandomSampler, "num": num, "pos_fraction": positive_frac, "add_gt_as_proposals": add_gt}
