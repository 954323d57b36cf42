"""Weights from files: read as state dicts, and refused where they are of another architecture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from antvisionps.core.errors import ModelError


def refuse_missing_file(weights: str | None) -> None:
    """Raises ModelError where a backbone's weights are neither None nor "imagenet" nor a file."""
    if weights is not None and weights != "imagenet" and not Path(weights).is_file():
        raise ModelError(f"backbone weights {weights}: no such file; give null, imagenet or the path of a state dict")


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The state dict in a file, or at one of mmengine's addresses (torchvision://resnet50)."""
    try:
        if "://" in source:
            return CheckpointLoader.load_checkpoint(source, map_location="cpu")
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, and whatever fetches a file, raise many types
        remedy = "without a network, give the path of a state dict" if "://" in source else "give another file"
        raise ModelError(f"{source}: cannot be read as a state dict ({error}); {remedy}") from error
    return state.get("state_dict", state)


def pretrained_timm(timm_name: str, **settings: Any) -> Any:
    """timm's model with its ImageNet weights. Raises ModelError where they cannot be fetched."""
    try:
        return timm.create_model(timm_name, pretrained=True, **settings)
    except Exception as error:  # the hub's client, the network and torch raise many types
        raise ModelError(
            f"ImageNet weights of timm's {timm_name} cannot be loaded ({type(error).__name__}: {error}); without a "
            "network, fetch the state dict elsewhere and give its path as the backbone's weights"
        ) from error


def first_difference(expected: Mapping[str, Tensor], got: Mapping[str, Any]) -> str:
    """The first tensor of `expected` that `got` has not, or in another shape, in words; empty where it has all."""
    for name, tensor in expected.items():
        if not isinstance(got.get(name), Tensor):
            return f"{name} is missing"
        if got[name].shape != tensor.shape:
            return f"{name} has shape {tuple(got[name].shape)}, expected {tuple(tensor.shape)}"
    return ""


def refuse_other_architecture(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], *, where: str) -> None:
    """Raises ModelError where a tensor that is wanted is missing or of another shape."""
    # Older files lack the number of batches, and nobody reads it.
    used = {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")}
    if difference := first_difference(used, got):
        raise ModelError(f"{where}: weights of another architecture: {difference}; give this backbone's own")
