"""Scales: the norms of a pyramid and its heads, and logits that begin near chance.

Backbones give features of any scale (EfficientNet-Lite0's have deviations of 2 to 8). A norm on the pyramid gives its
levels one deviation, whatever the backbone, and small logits begin every loss near its chance value.
"""

from math import sqrt
from typing import Any, Literal

from mmcv.cnn import build_norm_layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Norm = Literal["gn", "syncbn"]

CHANNELS_OF_GROUP = 8

PYRAMID_SCALE = 3.0
"""Deviation of a normed pyramid's levels at the start. A step of Adam moves every weight by the rate, so a logit moves
by the rate times the size of its features: at 1, logits learn too slowly beside the convolutions before them."""

LOGIT_STD = 0.01
"""Deviation of the logits at the start, for features with a mean square of 1. Without a norm, those of a pretrained
backbone have up to 14 times that deviation."""


def norm_config(norm: Norm | None, channels: int) -> dict[str, Any] | None:
    """mmcv's config: group norm in groups of 8 channels (in one, where 8 does not divide them), or batch norm, which
    `whole_batch.share_batch` spreads over all processes."""
    if norm is None:
        return None
    if norm == "syncbn":
        return {"type": "BN"}
    return {"type": "GN", "num_groups": 1 if channels % CHANNELS_OF_GROUP else channels // CHANNELS_OF_GROUP}


def norm_layer(norm: Norm | None, channels: int) -> nn.Module:
    """The norm of (N, channels, H, W), or what passes it on unchanged."""
    config = norm_config(norm, channels)
    return nn.Identity() if config is None else build_norm_layer(config, channels)[1]


def start_at_scale(pyramid: nn.Module) -> None:
    """Makes everything that is normed in the module start with PYRAMID_SCALE."""
    for module in pyramid.modules():
        if isinstance(module, nn.GroupNorm | _BatchNorm):
            nn.init.constant_(module.weight, PYRAMID_SCALE)


def start_at_chance(logits: nn.Module) -> None:
    """Draws the weights of a linear layer or a convolution so that classes start nearly equal."""
    weight = logits.get_parameter("weight")
    nn.init.normal_(weight, std=LOGIT_STD / sqrt(weight[0].numel()))
    nn.init.zeros_(logits.get_parameter("bias"))
