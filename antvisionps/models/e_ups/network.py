"""E-UPS, the first end: a Mask R-CNN with UPSNet's deformable semantic head over all classes (Xiong et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.models.detectors import TwoStagePanopticSegmentor
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.backbones import describe_backbone
from antvisionps.models.blocks.location_sensitive import (
    LocationSensitiveBoxHead,
    LocationSensitiveRoIHead,
    LocationTower,
)
from antvisionps.models.blocks.norms import start_at_chance
from antvisionps.models.blocks.whole_batch import whole_batch_losses
from antvisionps.models.e_ups.feature_pyramid import feature_pyramid
from antvisionps.models.e_ups.panoptic_loss import choose_known_instances, panoptic_loss
from antvisionps.models.e_ups.semantic_head import DeformableSemanticHead

BOX_STDS = (0.1, 0.1, 0.2, 0.2)
"""Scale of box regression targets (Girshick 2015)."""

LOSSES_OF = {
    "rpn_head.loss_cls": ("loss_rpn_cls", "loss_rpn_bbox"),
    "roi_head.bbox_head.loss_cls": ("loss_cls", "loss_bbox", "acc"),
    "roi_head.mask_head.loss_mask": ("loss_mask",),
}
"""Of mmdet's loss modules, the losses that are means over the same anchors, RoIs or masks."""

Pyramid = tuple[Tensor, ...]


@MODELS.register_module()
class EUps(TwoStagePanopticSegmentor):
    """The network; made by `build_e_ups`. At test time it is an `inference.scorers.BoxScorer`."""

    semantic_stride = two_stage.STRIDES[0]

    def __init__(self, *, num_things: int, panoptic_loss_weight: float, unknown_frac: float, **segmentor: Any) -> None:
        super().__init__(**segmentor)
        self.num_things = num_things
        self.panoptic_loss_weight = panoptic_loss_weight
        self.unknown_frac = unknown_frac

    def init_weights(self) -> None:
        super().init_weights()
        start_at_chance(self.roi_head.bbox_head.fc_cls)
        start_at_chance(self.roi_head.mask_head.conv_logits)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """RPN, box, mask, semantic and panoptic losses of a padded (N, 3, H, W) batch; their sum is minimised."""
        pyramid = self.extract_feat(batch_inputs)
        with whole_batch_losses(self, LOSSES_OF) as weigh:
            losses, proposals = self.rpn_head.loss_and_predict(
                pyramid,
                [two_stage.without_classes(sample) for sample in batch_data_samples],
                proposal_cfg=self.train_cfg.rpn_proposal,
            )
            losses |= self.roi_head.loss(pyramid, proposals, batch_data_samples)
        losses = weigh(losses)
        semantic_features = self.semantic_head.features(pyramid)
        semantic_logits = self.semantic_head.classifier(semantic_features)
        losses |= self.semantic_head.losses(semantic_features, semantic_logits, batch_data_samples)
        if self.panoptic_loss_weight > 0:
            losses["loss_panoptic"] = self._panoptic_loss(pyramid, semantic_logits, batch_data_samples)
        return losses

    def _panoptic_loss(self, pyramid: Pyramid, semantic_logits: Tensor, samples: list[DetDataSample]) -> Tensor:
        known = choose_known_instances(samples, unknown_frac=self.unknown_frac)
        instances = [sample.gt_instances for sample in samples]
        rois = bbox2roi([truth.bboxes[kept] for truth, kept in zip(instances, known, strict=True)])
        labels = torch.cat([truth.labels[kept] for truth, kept in zip(instances, known, strict=True)])
        mask_logits = self.roi_head._mask_forward(pyramid, rois)["mask_preds"][range(len(rois)), labels]
        return self.panoptic_loss_weight * panoptic_loss(
            semantic_logits,
            list(mask_logits.split([int(kept.sum()) for kept in known])),
            samples,
            known,
            num_things=self.num_things,
        )

    def extract(self, images: Tensor) -> Pyramid:
        return self.extract_feat(images)

    def propose(self, features: Pyramid, sample: DetDataSample) -> tuple[Tensor, Tensor]:
        return two_stage.propose_with_rpn(self.rpn_head, features, sample)

    def score_boxes(self, features: Pyramid, boxes_xyxy: Tensor, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rois = two_stage.rois_of_one_image(boxes_xyxy)
        outputs = self.roi_head._bbox_forward(features, rois)
        coder = self.roi_head.bbox_head.bbox_coder
        refined = coder.decode(boxes_xyxy, outputs["bbox_pred"], max_shape=input_hw)
        return refined, outputs["cls_score"].softmax(dim=1)

    def mask_logits(self, features: Pyramid, boxes_xyxy: Tensor, class_indices: Tensor) -> Tensor:
        rois = two_stage.rois_of_one_image(boxes_xyxy)
        logits = self.roi_head._mask_forward(features, rois)["mask_preds"]
        return logits[range(len(logits)), class_indices]

    def semantic_probabilities(self, features: Pyramid) -> Tensor:
        return self.semantic_head(features)[0].softmax(dim=0)


@dataclass(frozen=True, kw_only=True)
class EUpsSettings(two_stage.DetectorSettings):
    """What an E-UPS is built with.

    With the location sensitive header the `mask_convs` convolutions stand in the tower that box regression shares. A
    loss weight of 0 leaves that loss out. `unknown_frac` of the instances are unknown to the panoptic loss.
    """

    image_context: bool
    balanced_pyramid_level: int | None
    location_sensitive_header: bool
    semantic_channels: Sequence[int]
    semantic_loss_weight: float
    roi_semantic_loss_weight: float
    panoptic_loss_weight: float
    unknown_frac: float


def build_e_ups(**settings: Any) -> EUps:
    """An E-UPS of these EUpsSettings with random heads; call `init_weights()` to load the backbone's.

    Raises ModelError on an unknown backbone or pyramid level.
    """
    network = EUpsSettings(**settings)
    backbone = describe_backbone(**network.backbone)
    roi_head = location_sensitive_roi_head if network.location_sensitive_header else plain_roi_head
    rcnn = two_stage.rcnn_train_cfg(network, positive_iou=0.5)
    return EUps(
        num_things=network.num_things,
        panoptic_loss_weight=network.panoptic_loss_weight,
        unknown_frac=network.unknown_frac,
        neck=feature_pyramid(
            backbone,
            channels=network.fpn_channels,
            norm=network.pyramid_norm,
            image_context=network.image_context,
            balanced_level=network.balanced_pyramid_level,
        ),
        semantic_head={
            "type": DeformableSemanticHead,
            "in_channels": network.fpn_channels,
            "hidden_channels": tuple(network.semantic_channels),
            "num_classes": network.num_classes,
            "norm": network.head_norm,
            "loss_weight": network.semantic_loss_weight,
            "roi_loss_weight": network.roi_semantic_loss_weight,
        },
        **two_stage.detector_parts(network, backbone, roi_head=roi_head(network), rcnn=rcnn),
    )


def plain_roi_head(network: two_stage.DetectorSettings) -> dict[str, Any]:
    """Mask R-CNN's: one trunk for class and box, another for the mask."""
    return {
        "type": StandardRoIHead,
        "bbox_roi_extractor": two_stage.roi_extractor(channels=network.fpn_channels, size=two_stage.BOX_ROI_SIZE),
        "bbox_head": two_stage.box_head(network, class_agnostic=False, target_stds=BOX_STDS),
        "mask_roi_extractor": two_stage.roi_extractor(channels=network.fpn_channels, size=two_stage.MASK_ROI_SIZE),
        "mask_head": two_stage.mask_head(network, kind="FCNMaskHead"),
    }


def location_sensitive_roi_head(network: two_stage.DetectorSettings) -> dict[str, Any]:
    """The same, but box and mask share the convolutions, and the class has features of its own."""
    plain = plain_roi_head(replace(network, mask_convs=0))
    return plain | {
        "type": LocationSensitiveRoIHead,
        "tower": {
            "type": LocationTower,
            "channels": network.fpn_channels,
            "num_convs": network.mask_convs,
            "norm": network.head_norm,
        },
        "bbox_head": plain["bbox_head"] | {"type": LocationSensitiveBoxHead},
    }
