"""Where a backbone's ImageNet weights come from, and whether they are here already; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import timm
import torch
from mmengine.runner.checkpoint import get_torchvision_models

from antvisionps.models.blocks.backbones import EFFICIENTNET, RESNET_DEPTHS, TIMM_NAMES, TIMM_PREFIX
from antvisionps.models.blocks.backbones import packaged_efficientnet_weights as packaged_weights

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a repository of Hugging Face's hub, in this order."""


@dataclass(frozen=True)
class PretrainedWeights:
    """`file` is where they are, None if they are not here; `url` is what the first training fetches then."""

    file: Path | None
    url: str


def imagenet_weights(backbone: str) -> PretrainedWeights:
    """Those that `weights: imagenet` stands for. Raises ModelError where a package that carries them is missing."""
    if backbone == EFFICIENTNET:
        return PretrainedWeights(packaged_weights(), "")
    if backbone in RESNET_DEPTHS:
        return _downloaded(get_torchvision_models()[backbone])
    config = timm.get_pretrained_cfg(TIMM_NAMES.get(backbone, backbone.removeprefix(TIMM_PREFIX)))
    if config is not None and config.hf_hub_id:
        return _in_hub(config.hf_hub_id)
    return _downloaded(str(config.url) if config is not None and config.url else "")


def _downloaded(url: str) -> PretrainedWeights:
    """torch keeps what it fetches under the file's own name."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return PretrainedWeights(file if file.is_file() else None, url)


def _in_hub(repository: str) -> PretrainedWeights:
    cached = [huggingface_hub.try_to_load_from_cache(repository, name) for name in HUB_FILES]
    here = next((Path(path) for path in cached if isinstance(path, str)), None)
    return PretrainedWeights(here, huggingface_hub.hf_hub_url(repository, HUB_FILES[0]))
