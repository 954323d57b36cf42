"""The report's location sensitive header: boxes and masks share features, classes have their own (section 1.1).

Where a thing is changes its box and its mask but not its class. So one tower of convolutions on 14x14 RoI features
feeds both box regression and mask, and classification sees its own 7x7 RoI features through two fully connected layers.
"""

from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from antvisionps.models.blocks.norms import Norm, norm_config


@MODELS.register_module()
class LocationTower(BaseModule):
    """(K, C, 14, 14) RoI features to the (K, C, 14, 14) features that box regression and mask share: 3x3 convolutions
    with ReLU, and with a norm where there is one."""

    def __init__(self, *, channels: int, num_convs: int, norm: Norm | None) -> None:
        super().__init__()
        norm_cfg = norm_config(norm, channels)
        self.convs = torch.nn.Sequential(
            *(ConvModule(channels, channels, kernel_size=3, padding=1, norm_cfg=norm_cfg) for _ in range(num_convs))
        )

    def forward(self, roi_features: Tensor) -> Tensor:
        return self.convs(roi_features)


@MODELS.register_module()
class LocationSensitiveBoxHead(ConvFCBBoxHead):
    """(K, C, 7, 7) RoI features and (K, C, 14, 14) tower features to class logits (K, things + 1) and box deltas.

    Deltas come from the tower features, averaged to 7x7 so that their places are kept, through one hidden layer: a
    linear layer over all 49 C of them would move as much faster than the one over hidden features that it replaces.
    """

    def __init__(self, *, fc_out_channels: int, **settings: Any) -> None:
        super().__init__(num_cls_fcs=2, num_reg_fcs=1, fc_out_channels=fc_out_channels, **settings)

    def forward(self, class_features: Tensor, tower_features: Tensor) -> tuple[Tensor, Tensor]:
        places = F.adaptive_avg_pool2d(tower_features, self.roi_feat_size)
        of_class, of_box = class_features.flatten(1), places.flatten(1)
        for layer in self.cls_fcs:
            of_class = F.relu(layer(of_class))
        for layer in self.reg_fcs:
            of_box = F.relu(layer(of_box))
        return self.fc_cls(of_class), self.fc_reg(of_box)


@MODELS.register_module()
class LocationSensitiveRoIHead(StandardRoIHead):
    """mmdet's RoI head with the header; made of a LocationSensitiveBoxHead, a LocationTower and a mask head without
    convolutions of its own.

    In training the mask head runs on the tower features that box regression has computed already.
    """

    def __init__(self, *, tower: dict[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.tower = MODELS.build(tower)

    def locate(self, pyramid: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """(K, C, 14, 14) tower features of (K, 5) RoIs: index in the batch, box xyxy."""
        return self.tower(self.mask_roi_extractor(pyramid[: self.mask_roi_extractor.num_inputs], rois))

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        bbox_feats: Tensor,
        batch_gt_instances: list[InstanceData],
    ) -> dict[str, Any]:
        """mmdet's loss of the positive boxes; `bbox_feats` are the tower features of all boxes of the batch."""
        positive = [
            torch.arange(len(result.priors), device=bbox_feats.device) < len(result.pos_priors)
            for result in sampling_results
        ]
        logits = self.mask_head(bbox_feats[torch.cat(positive)])
        losses = self.mask_head.loss_and_target(
            mask_preds=logits,
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg,
        )
        return {"mask_preds": logits, "loss_mask": losses["loss_mask"]}

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        tower_features = self.locate(x, rois)
        class_features = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        class_logits, deltas = self.bbox_head(class_features, tower_features)
        return {"cls_score": class_logits, "bbox_pred": deltas, "bbox_feats": tower_features}

    def _mask_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        return {"mask_preds": self.mask_head(self.locate(x, rois))}
