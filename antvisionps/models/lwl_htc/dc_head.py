"""The DC head: LWL-HTC's semantic branch with deformable convolutions on every level (the report's figure 2)."""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from mmcv.ops import DeformConv2dPack
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from antvisionps.models.blocks.norms import Norm, norm_layer, start_at_chance
from antvisionps.models.blocks.semantic_loss import upsampled_cross_entropy

NUM_DEFORMABLE = 3
"""Deformable convolutions a level, as the figure draws them."""


@MODELS.register_module()
class DeformableFusionHead(BaseModule):
    """Pyramid levels, each (N, channels, h, w), to class logits and a feature, both on the grid of `fusion_level`.

    Each level passes three 3x3 deformable convolutions (v1, offsets start at zero), each with `norm` and ReLU, and a
    1x1 convolution, is resized bilinearly to the fusion level, and is added; the sum over L levels is divided by
    sqrt(L), so that it keeps their scale. Two 1x1 convolutions give the feature (with ReLU) and the logits. `shared`
    uses one set of deformable convolutions for all levels. `loss_on` is the photo, all of whose pixels count, or the
    grid, as in mmdet's FusedSemanticHead, for which this stands in.
    """

    def __init__(
        self,
        *,
        num_levels: int,
        fusion_level: int,
        channels: int,
        num_classes: int,
        norm: Norm | None,
        shared: bool,
        loss_weight: float,
        loss_on: Literal["photo", "grid"],
    ) -> None:
        super().__init__()
        self.fusion_level = fusion_level
        self.loss_weight = loss_weight
        self.loss_on = loss_on
        towers = 1 if shared else num_levels
        self.towers = nn.ModuleList(
            nn.ModuleList(DeformConv2dPack(channels, channels, 3, padding=1) for _ in range(NUM_DEFORMABLE))
            for _ in range(towers)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(norm_layer(norm, channels) for _ in range(NUM_DEFORMABLE)) for _ in range(num_levels)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(num_levels))
        self.conv_embedding = nn.Conv2d(channels, channels, 1)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)

    def init_weights(self) -> None:
        """He initialisation; the offsets keep their zeros."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | DeformConv2dPack) and not name.endswith("conv_offset"):
                nn.init.kaiming_normal_(module.get_parameter("weight"), nonlinearity="relu")
        start_at_chance(self.conv_logits)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes, h, w) and feature (N, channels, h, w)."""
        target_hw = levels[self.fusion_level].shape[-2:]
        fused = levels[self.fusion_level].new_zeros(())
        for index, (level, lateral) in enumerate(zip(levels, self.laterals, strict=True)):
            x = level
            for conv, norm in zip(
                self.towers[index % len(self.towers)].children(), self.norms[index].children(), strict=True
            ):
                x = F.relu(norm(conv(x)))
            fused = fused + F.interpolate(lateral(x), size=target_hw, mode="bilinear", align_corners=False)
        fused = fused / sqrt(len(levels))
        return self.conv_logits(fused), F.relu(self.conv_embedding(fused))

    def loss(self, logits: Tensor, class_indices: Tensor) -> Tensor:
        """Weighted cross entropy; `class_indices` (N, 1, H, W), void left out."""
        truth = class_indices
        if self.loss_on == "grid":
            truth = F.interpolate(truth.float(), size=logits.shape[-2:], mode="nearest")
        return self.loss_weight * upsampled_cross_entropy(logits, truth[:, 0].long())
