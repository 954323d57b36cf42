"""The networks that some params train, and where their ImageNet weights come from; nothing is downloaded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from mmengine.runner.checkpoint import get_torchvision_models

from antvisionps.models.blocks.backbones import EFFICIENTNET, RESNET_DEPTHS, TIMM_NAMES, TIMM_PREFIX
from antvisionps.models.blocks.backbones import packaged_efficientnet_weights as packaged_weights
from antvisionps.params.training import Training
from antvisionps.params.whole import Params

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a repository of Hugging Face's hub, in this order."""


@dataclass(frozen=True)
class TrainedNetwork:
    """One network of an end. `settings` are what it is built with, `training` is its end's section of the params,
    `load_from` the file of the detector that it starts from, `backbone` what its pretrained weights are called; None
    for neither. `processes` share each of its batches. `predicting` counts the network and those of its snapshots that
    predict beside it."""

    end: str
    member: str
    settings: dict[str, Any]
    training: Training
    load_from: str | None
    backbone: str | None
    processes: int
    predicting: int

    @property
    def name(self) -> str:
        return f"{self.end} {self.member}"


def networks_of(params: Params) -> Iterator[TrainedNetwork]:
    """Every network that `ends` trains, end by end."""
    runtime = params.runtime
    # SLURM's are the job's.
    processes = int(os.environ.get("SLURM_NTASKS", "1")) if runtime.launcher == "slurm" else runtime.processes
    for end in params.ends:
        section: Training = getattr(params, f"train_{end}")
        for member in section.members:
            settings, load_from = section.network(member), section.load_from(member)
            backbone = _backbone(settings["backbone"]) if load_from is None else None
            with_snapshots = params.predict.snapshots and not params.predict.soup
            predicting = 1 + len(section.snapshots) * with_snapshots
            yield TrainedNetwork(end, member, settings, section, load_from, backbone, processes, predicting)


def _backbone(settings: dict[str, Any]) -> str | None:
    if settings["weights"] != "imagenet":
        return None
    return settings["name"] if "name" in settings else f"timm:hrnet_w{settings['width']}"


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
