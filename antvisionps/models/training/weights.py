"""Trained weights on disk: a plain state dict beside a JSON file that tells what network it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from antvisionps.core.errors import ModelError
from antvisionps.core.json_files import read_json

WEIGHTS_FILE = "weights.pth"
NETWORK_FILE = "network.json"


def save_weights(folder: Path, model: nn.Module, *, network: Mapping[str, Any]) -> None:
    """Writes weights.pth and network.json (what `model` was built with) into an existing folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    torch.save(state, folder / WEIGHTS_FILE)
    (folder / NETWORK_FILE).write_text(json.dumps(network, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_network(folder: Path) -> dict[str, Any]:
    """What the network in that folder was built with. Raises ModelError where there is none."""
    remedy = "train that network first (`dvc repro`)"
    return read_json(folder / NETWORK_FILE, what="network", remedy=remedy, error=ModelError)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads weights.pth into a model of the same architecture.

    Raises ModelError on a missing or damaged file, and on weights of another architecture, naming what differs.
    """
    path = folder / WEIGHTS_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; train that network first (`dvc repro`)") from None
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a state dict ({error}); train that network again") from error
    difference = _difference(model.state_dict(), state)
    if difference:
        raise ModelError(f"{path}: weights of another architecture: {difference}; train again, or restore the params")
    model.load_state_dict(state, strict=True)


def weights_sha256(folders: list[Path]) -> str:
    """One checksum of the weights in all these folders, in that order."""
    digest = hashlib.sha256()
    for folder in folders:
        with (folder / WEIGHTS_FILE).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _difference(expected: Mapping[str, torch.Tensor], got: object) -> str:
    """The first thing that differs, in words; empty where nothing does."""
    if not isinstance(got, Mapping):
        return f"expected a state dict, got {type(got).__name__}"
    for name, tensor in expected.items():
        if name not in got:
            return f"{name} is missing"
        if not isinstance(got[name], torch.Tensor):
            return f"{name} is a {type(got[name]).__name__}, expected a tensor"
        if got[name].shape != tensor.shape:
            return f"{name} has shape {tuple(got[name].shape)}, expected {tuple(tensor.shape)}"
    surplus = sorted(set(got) - set(expected))
    return f"{surplus[0]} is not part of this network" if surplus else ""
