"""UPSNet's semantic head: one deformable subnet, shared by all pyramid levels (Xiong et al. 2019, section 3.1)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from mmcv.ops import DeformConv2dPack, roi_align
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from antvisionps.models.blocks.norms import Norm, norm_layer, start_at_chance
from antvisionps.models.blocks.semantic_loss import semantic_truth, upsampled_cross_entropy
from antvisionps.models.blocks.two_stage import STRIDES

NUM_LEVELS = 4
"""P2 to P5."""

ROI_SIZE = 28
"""Side of the features that the RoI loss looks at in each box."""


@MODELS.register_module()
class DeformableSemanticHead(BaseModule):
    """P2-P5, each (N, in_channels, H/s, W/s) at s = 4, 8, 16, 32, to class logits (N, num_classes, H/4, W/4).

    One subnet of 3x3 deformable convolutions (v1, offsets start at zero), each with its `norm` and ReLU, runs on every
    level; the results are resized bilinearly to P2, concatenated and classified by a 1x1 convolution. `hidden_channels`
    gives the output channels of each deformable convolution (UPSNet: 256, 128, 128 from 256). A `roi_loss_weight` of 0
    leaves UPSNet's RoI loss out.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: Sequence[int],
        num_classes: int,
        norm: Norm | None,
        loss_weight: float,
        roi_loss_weight: float,
    ) -> None:
        super().__init__()
        widths = (in_channels, *hidden_channels)
        self.subnet = nn.ModuleList(
            DeformConv2dPack(before, after, kernel_size=3, padding=1) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(norm_layer(norm, width) for width in hidden_channels)
        self.classifier = nn.Conv2d(NUM_LEVELS * widths[-1], num_classes, kernel_size=1)
        self.loss_weight = loss_weight
        self.roi_loss_weight = roi_loss_weight

    def init_weights(self) -> None:
        """He initialisation of the convolutions; the offsets keep their zeros."""
        for conv in self.subnet:
            nn.init.kaiming_normal_(conv.get_parameter("weight"), nonlinearity="relu")
        start_at_chance(self.classifier)

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """(N, 4 * hidden_channels[-1], H/4, W/4): what the classifier sees."""
        outputs = [self._run_subnet(level) for level in levels[:NUM_LEVELS]]
        hw = levels[0].shape[-2:]
        return torch.cat([F.interpolate(x, size=hw, mode="bilinear", align_corners=False) for x in outputs], dim=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.features(levels))

    def losses(self, features: Tensor, logits: Tensor, samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Weighted cross entropy at full resolution and inside ground-truth boxes, void left out."""
        truth = semantic_truth(samples)
        losses = {"loss_semantic": self.loss_weight * upsampled_cross_entropy(logits, truth)}
        if self.roi_loss_weight > 0:
            rois = bbox2roi([sample.gt_instances.bboxes for sample in samples])
            roi_features = roi_align(features, rois, ROI_SIZE, 1 / STRIDES[0], 0, "avg", True)
            roi_loss = upsampled_cross_entropy(self.classifier(roi_features), crop_classes(truth, rois, size=ROI_SIZE))
            losses["loss_semantic_roi"] = self.roi_loss_weight * roi_loss
        return losses

    def _run_subnet(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.subnet, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x


def crop_classes(class_indices: Tensor, rois: Tensor, *, size: int) -> Tensor:
    """(K, size, size) of an (N, H, W) map: the class at the centre of each bin of (K, 5) RoIs (image, box xyxy)."""
    bins = (torch.arange(size, device=rois.device) + 0.5) / size
    image, left, top, right, bottom = rois.unbind(dim=1)
    rows = (top[:, None] + bins * (bottom - top)[:, None]).long().clamp(max=class_indices.shape[-2] - 1)
    columns = (left[:, None] + bins * (right - left)[:, None]).long().clamp(max=class_indices.shape[-1] - 1)
    return class_indices[image.long()[:, None, None], rows[:, :, None], columns[:, None, :]]
