"""What both two-stage networks share: pyramid, region proposals and RoI heads as mmdet configs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.necks import FPN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from antvisionps.models.blocks.backbones import BackboneSpec
from antvisionps.models.blocks.norms import Norm, norm_config, start_at_scale
from antvisionps.models.blocks.precision import widen
from antvisionps.panoptic.categories import VOID_CLASS_INDEX

STRIDES = (4, 8, 16, 32, 64)
"""P2 to P6, the last a max-pool of P5 (Lin et al. 2017)."""

ROI_STRIDES = STRIDES[:4]
BOX_ROI_SIZE = 7
MASK_ROI_SIZE = 14
MASK_SIZE = 2 * MASK_ROI_SIZE
"""Side of a predicted mask: the mask head doubles its RoI features once (He et al. 2017, figure 4)."""

IGNORED_ANCHOR = -1
"""mmdet's mark of an anchor that counts in no loss."""


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What both networks are built with.

    `num_classes` counts things and stuff, things first. `backbone` is `describe_backbone`'s, the side of an anchor
    `anchor_scale` strides. Widths are channels; proposals and RoIs count boxes an image. `pyramid_norm` follows the
    convolutions of the pyramid, `head_norm` those of the mask and semantic heads.
    """

    num_things: int
    num_classes: int
    backbone: Mapping[str, Any]
    fpn_channels: int
    pyramid_norm: Norm | None
    head_norm: Norm | None
    anchor_scale: float
    train_proposals: int
    test_proposals: int
    rois_per_image: int
    box_fc_channels: int
    mask_convs: int


def detector_parts(
    settings: DetectorSettings, backbone: BackboneSpec, *, roi_head: Mapping[str, Any], rcnn: object
) -> dict[str, Any]:
    """mmdet's config of a detector but for its neck; `rcnn` is what its RoI heads train by.

    At test time it gives region proposals alone: `inference.views` scores them, so that networks share boxes.
    """
    return {
        "backbone": backbone.config,
        "rpn_head": ConfigDict(_rpn_head(settings)),
        "roi_head": ConfigDict(roi_head),
        "train_cfg": ConfigDict(**_rpn_train_cfg(settings.train_proposals), rcnn=rcnn),
        "test_cfg": ConfigDict(rpn=_proposal_cfg(settings.test_proposals), rcnn=None),
        "data_preprocessor": data_preprocessor(backbone),
    }


def data_preprocessor(backbone: BackboneSpec) -> dict[str, Any]:
    """Normalises RGB images and pads image, masks (0) and semantic truth (void) to a multiple of 32; pinned batches are
    copied to a GPU while it computes."""
    return {
        "type": DetDataPreprocessor,
        "mean": backbone.mean_rgb,
        "std": backbone.std_rgb,
        "pad_size_divisor": 32,
        "non_blocking": True,
        "pad_mask": True,
        "pad_seg": True,
        "seg_pad_value": VOID_CLASS_INDEX,
    }


@MODELS.register_module()
class FeaturePyramid(FPN):
    """mmdet's FPN, whose levels start with `norms.PYRAMID_SCALE` where they are normed."""

    def init_weights(self) -> None:
        super().init_weights()
        start_at_scale(self.fpn_convs)


def fpn(backbone: BackboneSpec, channels: int, norm: Norm | None) -> dict[str, Any]:
    return {
        "type": FeaturePyramid,
        "in_channels": list(backbone.channels),
        "out_channels": channels,
        "num_outs": len(STRIDES),
        "norm_cfg": norm_config(norm, channels),
    }


@MODELS.register_module()
class ProposalHead(RPNHead):
    """mmdet's, with proposals in float32 whatever the features are.

    mmdet makes anchors, boxes and the shifts that keep levels apart in NMS in the scores' type. In bfloat16 an edge
    beyond 1024 px moves by 4 px and more, and NMS sees the boxes of the coarse levels on a grid of 32 px.
    """

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **how: Any) -> Any:
        scores, deltas = ([widen(level) for level in levels] for levels in (cls_scores, bbox_preds))
        return super().predict_by_feat(scores, deltas, *args, **how)


def _rpn_head(settings: DetectorSettings) -> dict[str, Any]:
    """Three anchors a cell."""
    return {
        "type": ProposalHead,
        "in_channels": settings.fpn_channels,
        "feat_channels": settings.fpn_channels,
        "anchor_generator": {
            "type": AnchorGenerator,
            "scales": [settings.anchor_scale],
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
        order = levels.argsort(stable=True)
        of_level = rois[order].split(levels.bincount(minlength=len(feats)).tolist())
        pooled = [layer(level, boxes) for layer, level, boxes in zip(self.roi_layers, feats, of_level, strict=True)]
        return torch.cat(pooled)[order.argsort()]


def roi_extractor(*, channels: int, size: int, strides: tuple[int, ...] = ROI_STRIDES) -> dict[str, Any]:
    return {
        "type": RoIExtractor,
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": channels,
        "featmap_strides": list(strides),
    }


def box_head(settings: DetectorSettings, *, class_agnostic: bool, target_stds: tuple[float, ...]) -> dict[str, Any]:
    """Two shared fully connected layers, then class scores and box deltas."""
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": settings.fpn_channels,
        "fc_out_channels": settings.box_fc_channels,
        "roi_feat_size": BOX_ROI_SIZE,
        "num_classes": settings.num_things,
        "bbox_coder": _box_coder(target_stds),
        "reg_class_agnostic": class_agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    }


def mask_head(settings: DetectorSettings, *, kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "num_convs": settings.mask_convs,
        "in_channels": settings.fpn_channels,
        "conv_out_channels": settings.fpn_channels,
        "num_classes": settings.num_things,
        "norm_cfg": norm_config(settings.head_norm, settings.fpn_channels),
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
    }


@TASK_UTILS.register_module()
class AnchorAssigner(MaxIoUAssigner):
    """mmdet's, but anchors in a crowd are ignored in every image: mmdet makes them background where the crowd is the
    image's only truth."""

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
        **how: Any,
    ) -> AssignResult:
        assigned = super().assign(pred_instances, gt_instances, gt_instances_ignore, **how)
        if not len(gt_instances) and gt_instances_ignore is not None and len(gt_instances_ignore):
            covered = self.iou_calculator(pred_instances.priors, gt_instances_ignore.bboxes, mode="iof")
            assigned.gt_inds[covered.amax(dim=1) > self.ignore_iof_thr] = IGNORED_ANCHOR
        return assigned


def _rpn_train_cfg(max_proposals: int) -> dict[str, Any]:
    """Anchor assignment and the proposals that the RoI heads train on."""
    return {
        "rpn": {
            "assigner": _assigner(positive_iou=0.7, negative_iou=0.3, match_low_quality=True)
            | {"type": AnchorAssigner},
            "sampler": {"type": RandomSampler, "num": 256, "pos_fraction": 0.5, "add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": _proposal_cfg(max_proposals),
    }


def _proposal_cfg(max_proposals: int) -> dict[str, Any]:
    nms = {"type": "nms", "iou_threshold": 0.7}
    return {"nms_pre": 2 * max_proposals, "max_per_img": max_proposals, "nms": nms, "min_bbox_size": 0}


def rcnn_train_cfg(settings: DetectorSettings, *, positive_iou: float) -> dict[str, Any]:
    return {
        "assigner": _assigner(positive_iou=positive_iou, negative_iou=positive_iou, match_low_quality=False),
        "sampler": {
            "type": RandomSampler,
            "num": settings.rois_per_image,
            "pos_fraction": 0.25,
            "add_gt_as_proposals": True,
        },
        "mask_size": MASK_SIZE,
        "pos_weight": -1,
    }


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


def _box_coder(target_stds: tuple[float, ...]) -> dict[str, Any]:
    return {"type": DeltaXYWHBBoxCoder, "target_means": (0.0, 0.0, 0.0, 0.0), "target_stds": target_stds}


def _assigner(*, positive_iou: float, negative_iou: float, match_low_quality: bool) -> dict[str, Any]:
    return {
        "type": MaxIoUAssigner,
        "pos_iou_thr": positive_iou,
        "neg_iou_thr": negative_iou,
        "min_pos_iou": negative_iou,
        "match_low_quality": match_low_quality,
        # Anchors and proposals that lie in a crowd are neither positive nor negative.
        "ignore_iof_thr": 0.5,
    }
