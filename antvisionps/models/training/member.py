"""One network of an end, from its settings to weights on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.model import BaseModule

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import ModelError
from antvisionps.models.training.data import TrainingSamples
from antvisionps.models.training.loop import train
from antvisionps.models.training.weights import save_weights
from antvisionps.panoptic.dataset import PanopticDataset

CURVES_DIR = "curves"


def train_member(
    dataset: PanopticDataset,
    *,
    build: Callable[..., BaseModule],
    end: str,
    network: Mapping[str, Any],
    seed: int,
    schedule: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    memory: Mapping[str, Any],
    augmentation: Mapping[str, Any],
    curve_interval: int,
    checkpoint_interval: int,
    loader_workers: int,
    dataset_fingerprint: str,
    work_dir: Path,
    out_dir: Path,
) -> None:
    """Trains one network of an end and writes weights.pth, network.json and curves/ to `out_dir`, whole.

    `build` makes the network from `network`'s settings, `schedule`, `optimizer` and the rest are `training.train`'s.

    An interrupted training is resumed from `work_dir`, and only by the same settings, data, code and number of
    processes. Of several processes, which share every batch, one writes.
    """
    refuse_unusable_dataset(dataset)
    categories = dataset.categories
    described = {
        "end": end,
        "num_things": len(categories.things),
        "num_classes": len(categories),
        "categories": categories.to_json(),
        "network": dict(network),
    }
    rank, processes = get_dist_info()
    settings = [described, seed, schedule, optimizer, memory, augmentation, curve_interval, dataset_fingerprint]
    settings += [processes] if processes > 1 else []
    run_dir = work_dir / _digest_of_run(settings)
    model = train(
        partial(
            build,
            num_things=described["num_things"],
            num_classes=described["num_classes"],
            test_proposals=network.get("train_proposals"),
            **network,
        ),
        TrainingSamples(dataset, seed=seed, **augmentation),
        name=f"{end} {out_dir.name}",
        num_images=len(dataset.images),
        seed=seed,
        **schedule,
        optimizer=optimizer,
        memory=memory,
        checkpoint_interval=checkpoint_interval,
        curve_interval=curve_interval,
        workers=loader_workers,
        work_dir=run_dir,
        curves_dir=run_dir / CURVES_DIR,
    )
    if rank != 0:
        return
    with atomic_folder(out_dir) as folder:
        save_weights(folder, model, network=described)
        shutil.copytree(run_dir / CURVES_DIR, folder / CURVES_DIR)
    shutil.rmtree(run_dir)


def refuse_unusable_dataset(dataset: PanopticDataset) -> None:
    """Raises ModelError where no end could learn: no thing, or no stuff category."""
    for kind, categories in (("thing", dataset.categories.things), ("stuff", dataset.categories.stuff)):
        if not categories:
            raise ModelError(f"{dataset.annotations}: no {kind} category; the ends predict things and stuff together")


def _digest_of_run(settings: Sequence[Any]) -> str:
    """A name for a training: the same only for the same settings, data, code of this package and torch."""
    digest = hashlib.sha256(json.dumps([settings, torch.__version__], sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
