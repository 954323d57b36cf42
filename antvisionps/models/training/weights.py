"""Trained weights on disk: a plain state dict beside a JSON file that tells what network it belongs to."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from antvisionps.core.errors import ModelError
from antvisionps.core.input_files import open_file, refuse_other_than_file
from antvisionps.core.json_files import read_json
from antvisionps.models.blocks.state_dicts import first_difference

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
        refuse_other_than_file(path)
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; train that network first (`dvc repro`)") from None
    except Exception as error:
        raise ModelError(f"{path}: cannot be read as a state dict ({error}); train that network again") from error
    expected = model.state_dict()
    surplus = [f"{name} is not part of this network" for name in sorted(set(state) - set(expected))]
    if difference := first_difference(expected, state) or next(iter(surplus), ""):
        raise ModelError(f"{path}: weights of another architecture: {difference}; train again, or restore the params")
    model.load_state_dict(state, strict=True)


def weights_sha256(folders: Sequence[Path]) -> str:
    """One checksum of the weights in all these folders, in that order."""
    digest = hashlib.sha256()
    for folder in folders:
        with open_file(folder / WEIGHTS_FILE) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
