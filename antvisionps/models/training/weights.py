"""Trained weights on disk: a plain state dict beside a JSON file that tells what network it belongs to."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from antvisionps.core.documents import Document, read_document
from antvisionps.core.errors import ModelError
from antvisionps.core.input_files import open_file
from antvisionps.models.blocks.state_dicts import first_difference, first_unusable, load_checked
from antvisionps.panoptic.categories import CategorySet

WEIGHTS_FILE = "weights.pth"
NETWORK_FILE = "network.json"
SNAPSHOTS_DIR = "snapshots"
"""In the folder of a network: one folder, of the same form, for each iteration whose weights were kept by the way."""
_SPARE_BYTES = 2**20
"""A disk with less has no room."""


def save_weights(folder: Path, model: nn.Module, *, network: Mapping[str, Any]) -> None:
    """Writes weights.pth and network.json (what `model` was built with) into an existing folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _save(state, folder / WEIGHTS_FILE)
    (folder / NETWORK_FILE).write_text(json.dumps(network, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """torch writes by itself: it takes a full disk for an error of the program, or does not notice."""
    try:
        torch.save(state, path)
    except RuntimeError as error:
        raise _unwritten(path) from error
    if not zipfile.is_zipfile(path):
        raise _unwritten(path)


def _unwritten(path: Path) -> OSError:
    is_full = shutil.disk_usage(path.parent).free < _SPARE_BYTES
    number = errno.ENOSPC if is_full else errno.EIO
    return OSError(number, os.strerror(number), str(path))


class Network(Document):
    """What a network was built with: `network` are the settings of its section in the params, `categories` rows as in
    COCO's panoptic JSON."""

    end: str
    categories: list[dict[str, Any]]
    network: dict[str, Any]
    num_things: int
    num_classes: int


def read_network(folder: Path) -> Network:
    """What the network in that folder was built with; its settings are not checked. Raises ModelError where there is
    none, or another document."""
    path, remedy = folder / NETWORK_FILE, "train that network first (`dvc repro`)"
    network = read_document(path, Network, what="network", remedy=remedy, error=ModelError)
    categories = CategorySet.from_json(network.categories, where=str(path))
    if (network.num_things, network.num_classes) != (len(categories.things), len(categories)):
        raise ModelError(f"{path}: num_things and num_classes are not those of its categories; {remedy}")
    return network


def snapshot_folders(folder: Path) -> list[Path]:
    """The snapshots of the network in that folder, first iteration first."""
    snapshots = [path for path in folder.glob(f"{SNAPSHOTS_DIR}/*") if path.name.isdecimal()]
    return sorted(snapshots, key=lambda path: int(path.name))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads weights.pth into a model of the same architecture.

    Raises ModelError on a missing or damaged file, on weights of another architecture, naming what differs, and on
    values that are not finite.
    """
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise ModelError(f"{path}: no such file; train that network first (`dvc repro`)")
    state = load_checked(path, remedy="train that network again")
    expected = model.state_dict()
    surplus = [f"{name} is not part of this network" for name in sorted(map(str, set(state) - set(expected)))]
    if difference := first_difference(expected, state) or next(iter(surplus), ""):
        raise ModelError(f"{path}: weights of another architecture: {difference}; train again, or restore the params")
    if problem := first_unusable(state):
        raise ModelError(f"{path}: {problem}; train that network again")
    model.load_state_dict(state, strict=True)


def weights_sha256(folders: Sequence[Path]) -> str:
    """One checksum of the weights in all these folders, in that order."""
    digest = hashlib.sha256()
    for folder in folders:
        with open_file(folder / WEIGHTS_FILE) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
