"""HRNet-ASPP, the semantic model: HRNet's branches, atrous spatial pyramid pooling, a decoder (the report's figure 3).

    stages 1-4 ─ branches at strides 4-32, resized to stride 8, concatenated ─ ASPP ─ ×2 ─┬─ 3×3 ─ 1×1 ─ logits
    stage 1 ── 1×1 ───────────────────────────────────────────────────────────────────────┘  at stride 4

The figure doubles ASPP's output before it meets stage 1's features, which are at stride 4: so ASPP runs at stride 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import Conv2dNormActivation

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.semantic_loss import semantic_truth, upsampled_cross_entropy
from antvisionps.models.blocks.whole_batch import hardest, shared_count
from antvisionps.models.hrnet_aspp.hrnet import STAGE1_CHANNELS, describe_hrnet
from antvisionps.panoptic.categories import VOID_CLASS_INDEX

SEMANTIC_STRIDE = 4
ASPP_BRANCH = 1
"""Which of the branches at strides 4, 8, 16 and 32 has the grid that ASPP runs on."""


class HrnetAspp(BaseModel):
    """The network; made by `build_hrnet_aspp`. At test time it is an `inference.scorers.SemanticScorer`."""

    semantic_stride = SEMANTIC_STRIDE

    def __init__(
        self, *, backbone: Mapping[str, Any], decoder: AsppDecoder, hard_pixel_frac: float | None, **model: Any
    ) -> None:
        super().__init__(**model)
        self.backbone = MODELS.build(dict(backbone))
        self.decoder = decoder
        self.hard_pixel_frac = hard_pixel_frac

    def forward(
        self, inputs: Tensor, data_samples: list[DetDataSample] | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor]:
        """Logits (N, C, H/4, W/4) of a padded (N, 3, H, W) batch; in mode "loss", as mmengine trains, its loss."""
        logits = self.decoder(self.backbone(inputs))
        if mode != "loss":
            return logits
        truth = semantic_truth(data_samples or [])
        return {"loss_semantic": hard_pixel_cross_entropy(logits, truth, hard_pixel_frac=self.hard_pixel_frac)}

    def extract(self, images: Tensor) -> Tensor:
        return self(images)

    def semantic_probabilities(self, features: Tensor) -> Tensor:
        return features[0].softmax(dim=0)


class AsppDecoder(BaseModule):
    """HRNet's stage 1 and four branches to class logits at stride 4.

    The branches are resized bilinearly to stride 8 and concatenated for ASPP (Chen et al. 2018: a 1×1, a 3×3 at each of
    `rates`, the pooled image, joined by a 1×1 with dropout), whose output is doubled and concatenated with a 1×1 of
    stage 1; a 3×3 and a 1×1 make logits of it. Every convolution but the last has batch norm and ReLU.
    """

    def __init__(
        self,
        *,
        branch_channels: Sequence[int],
        rates: Sequence[int],
        aspp_channels: int,
        stage1_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(sum(branch_channels), tuple(rates), aspp_channels)
        self.reduce_stage1 = Conv2dNormActivation(STAGE1_CHANNELS, stage1_channels, kernel_size=1)
        self.join = Conv2dNormActivation(aspp_channels + stage1_channels, aspp_channels, kernel_size=3)
        self.classifier = nn.Conv2d(aspp_channels, num_classes, kernel_size=1)

    def init_weights(self) -> None:
        """He initialisation; nearly uniform probabilities at first."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.get_parameter("bias"))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        stage1, *branches = features
        x = self.aspp(torch.cat([_resize(branch, like=branches[ASPP_BRANCH]) for branch in branches], dim=1))
        x = torch.cat([_resize(x, like=stage1), self.reduce_stage1(stage1)], dim=1)
        return self.classifier(self.join(x))


def _resize(x: Tensor, *, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def hard_pixel_cross_entropy(logits: Tensor, class_indices: Tensor, *, hard_pixel_frac: float | None) -> Tensor:
    """Mean cross entropy of (N, C, h, w) logits, resized bilinearly to the (N, H, W) truth, over its hardest pixels.

    These are the `hard_pixel_frac` of the batch's non-void pixels, rounded up, that have the largest loss; all of them
    for None. Zero (with a gradient) where every pixel is void.
    """
    if hard_pixel_frac is None:
        return upsampled_cross_entropy(logits, class_indices)
    resized = F.interpolate(logits, size=class_indices.shape[-2:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(resized, class_indices, ignore_index=VOID_CLASS_INDEX, reduction="none")
    losses = hardest(losses[class_indices != VOID_CLASS_INDEX], hard_pixel_frac)
    return losses.sum() / shared_count(torch.tensor(len(losses), device=losses.device))


def build_hrnet_aspp(
    *,
    num_things: int,
    num_classes: int,
    backbone: Mapping[str, Any],
    aspp_rates: Sequence[int],
    aspp_channels: int,
    stage1_channels: int,
    hard_pixel_frac: float | None,
    test_proposals: int | None = None,
) -> HrnetAspp:
    """An HRNet-ASPP with a random decoder; call `init_weights()` to load the backbone's.

    `num_classes` counts things and stuff; `num_things` and `test_proposals`, which all ends are built with, mean
    nothing here. `aspp_rates` are cells of 8 px. `stage1_channels` is what the decoder reduces stage 1 to. Raises
    ModelError on an unknown backbone, or rates that are not positive and ascending.
    """
    if not aspp_rates or list(aspp_rates) != sorted(set(aspp_rates)) or min(aspp_rates) < 1:
        raise ModelError(f"aspp_rates are {list(aspp_rates)}; expected ascending positive numbers, as [6, 12, 18]")
    spec = describe_hrnet(**backbone)
    decoder = AsppDecoder(
        branch_channels=spec.channels,
        rates=aspp_rates,
        aspp_channels=aspp_channels,
        stage1_channels=stage1_channels,
        num_classes=num_classes,
    )
    return HrnetAspp(
        backbone=spec.config,
        decoder=decoder,
        hard_pixel_frac=hard_pixel_frac,
        data_preprocessor=two_stage.data_preprocessor(spec),
    )
