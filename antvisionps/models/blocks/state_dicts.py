"""Weights from files: read as state dicts, and refused where they are damaged or of another architecture."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from antvisionps.core.errors import ModelError, clipped, first_line
from antvisionps.core.input_files import refuse_other_than_file


def refuse_missing_file(weights: str | None) -> None:
    """Raises ModelError where a backbone's weights are neither None nor "imagenet" nor a file."""
    if weights is not None and weights != "imagenet" and not Path(weights).is_file():
        raise ModelError(f"backbone weights {weights}: no such file; give null, imagenet or the path of a state dict")


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The tensors of the state dict in a file, or at one of mmengine's addresses (torchvision://resnet50).

    Raises ModelError on a damaged file and on values that are not finite.
    """
    remedy = "without a network, give the path of a state dict" if "://" in source else "give another file"
    state = _fetch(source, remedy) if "://" in source else load_checked(Path(source), remedy=remedy)
    state = state.get("state_dict", state)
    if not isinstance(state, Mapping):
        raise ModelError(f"{source}: expected tensors by name under state_dict, got {clipped(state)}; {remedy}")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if problem := first_unusable(tensors):
        raise ModelError(f"{source}: {problem}; {remedy}")
    return tensors


def _fetch(address: str, remedy: str) -> Mapping[Any, Any]:
    try:
        return CheckpointLoader.load_checkpoint(address, map_location="cpu")
    except Exception as error:  # whatever fetches a file raises many types
        raise _unreadable(address, error, remedy) from error


def load_checked(path: Path, *, remedy: str) -> Mapping[Any, Any]:
    """The table that torch saved there, on the CPU. Raises ModelError on a missing, damaged or unsafe file.

    torch compares no checksums when it reads its own zip archives, so a flipped bit would go unseen.
    """
    try:
        refuse_other_than_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of its part {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping):
            raise TypeError(f"expected tensors by name, got {type(state).__name__}")
    except Exception as error:  # torch raises many types
        raise _unreadable(path, error, remedy) from error
    return state


def _unreadable(source: object, error: Exception, remedy: str) -> ModelError:
    return ModelError(f"{source}: cannot be read as a state dict ({_reason(error)}); {remedy}")


def _reason(error: Exception) -> str:
    """torch advises to load what it refuses without its checks, which would run what the file says."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {found[1]} beside tensors, which could run code; save the state dict alone"
    if isinstance(error, OSError | RuntimeError | ValueError | TypeError):
        return first_line(error)
    return "it is no file of torch's"


def first_unusable(state: Mapping[str, Tensor]) -> str:
    """The first tensor that holds NaN or infinity, or no plain numbers in memory, in words; empty where all do."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            return f"{name} holds no plain numbers"
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"{name} holds NaN or infinity"
    return ""


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
    """The first tensor of `expected` that `got` has not, or in another shape or kind of number, in words; empty where
    it has all."""
    for name, tensor in expected.items():
        if not isinstance(got.get(name), Tensor):
            return f"{name} is missing"
        if got[name].shape != tensor.shape:
            return f"{name} has shape {tuple(got[name].shape)}, expected {tuple(tensor.shape)}"
        if got[name].is_floating_point() != tensor.is_floating_point():
            return f"{name} is of {got[name].dtype}, expected {tensor.dtype}"
    return ""


def refuse_other_architecture(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], *, where: str) -> None:
    """Raises ModelError where a tensor that is wanted is missing or of another shape."""
    # Older files lack the number of batches, and nobody reads it.
    used = {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")}
    if difference := first_difference(used, got):
        raise ModelError(f"{where}: weights of another architecture: {difference}; give this backbone's own")
