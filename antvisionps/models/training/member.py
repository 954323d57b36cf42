"""One network of an end, from its settings to weights on disk."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.model import BaseModel

from antvisionps.core.atomic import atomic_folder, named_errors, sole_writer
from antvisionps.core.copying import copy_files
from antvisionps.core.errors import ModelError
from antvisionps.models.training.detector_files import detector_sha256
from antvisionps.models.training.kept_weights import Evaluate
from antvisionps.models.training.loggers import open_loggers
from antvisionps.models.training.loop import CURVES_DIR, train
from antvisionps.models.training.run_digest import run_digest
from antvisionps.models.training.samples import TrainingSamples
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.start import announce_start
from antvisionps.models.training.weights import SNAPSHOTS_DIR, save_weights
from antvisionps.panoptic.dataset import PanopticDataset

LOGS_DIR = "logs"
START_FILE = "load_from.json"


def train_member(
    dataset: PanopticDataset,
    *,
    build: Callable[..., BaseModel],
    end: str,
    network: Mapping[str, Any],
    load_from: str | None,
    settings: TrainingSettings,
    checkpoint_interval: int,
    loader_workers: int,
    dataset_fingerprint: str,
    work_dir: Path,
    out_dir: Path,
    evaluate: Evaluate | None = None,
    loggers: Sequence[str] = (),
) -> None:
    """Trains one network of an end and writes weights.pth, network.json and curves/ to `out_dir`, whole, and the
    settings' snapshots, each a folder with a weights.pth and network.json, to snapshots/.

    `build` makes the network from `network`'s settings; `evaluate` is `train`'s. `load_from` is the detector that it
    starts from, or None; what it took is written to load_from.json. An interrupted training is resumed from `work_dir`,
    and only by the same settings, data, code, detector and number of processes. Of several processes, which share every
    batch, one writes. `loggers` are runtime's; what they keep stays in `work_dir`/logs.
    """
    refuse_unusable_dataset(dataset)
    classes = {"num_things": len(dataset.categories.things), "num_classes": len(dataset.categories)}
    described = {"end": end, "categories": dataset.categories.to_json(), "network": dict(network)} | classes
    rank, processes = get_dist_info()
    detector = None if load_from is None else detector_sha256(Path(load_from))
    run_dir = work_dir / run_digest([described, detector, asdict(settings), dataset_fingerprint, processes])
    name, start = f"{end} {out_dir.name}", None
    if load_from is not None:
        network = {**network, "backbone": network["backbone"] | {"weights": None}}  # all of it is the file's
        start = partial(
            announce_start, file=Path(load_from), categories=dataset.categories, name=name, report=run_dir / START_FILE
        )
    learn = partial(
        train,
        partial(build, test_proposals=network.get("train_proposals"), **classes, **network),
        TrainingSamples(
            dataset, seed=settings.seed, batch_size=settings.schedule["batch_size"], **settings.augmentation
        ),
        settings,
        start=start,
        name=name,
        checkpoint_interval=checkpoint_interval,
        workers=loader_workers,
        work_dir=run_dir,
        save=partial(save_weights, network=described),
        evaluate=evaluate,
        loggers=open_loggers(loggers if rank == 0 else (), name=name, folder=work_dir / LOGS_DIR / run_dir.name),
    )
    if rank == 0:
        _learn_and_save(learn, described, run_dir=run_dir, out_dir=out_dir, has_start=start is not None)
    else:
        learn()


def _learn_and_save(
    learn: Callable[[], BaseModel], described: Mapping[str, Any], *, run_dir: Path, out_dir: Path, has_start: bool
) -> None:
    with sole_writer(run_dir):
        with atomic_folder(out_dir) as folder:
            with named_errors(run_dir):
                model = learn()
            save_weights(folder, model, network=described)
            for kept in (CURVES_DIR, SNAPSHOTS_DIR):
                copy_files(run_dir / kept, folder / kept)
            if has_start:
                shutil.copyfile(run_dir / START_FILE, folder / START_FILE)
        shutil.rmtree(run_dir, ignore_errors=True)  # what is left leads to the same weights


def refuse_unusable_dataset(dataset: PanopticDataset) -> None:
    """Raises ModelError where no end could learn: no thing, or no stuff category."""
    for kind, categories in (("thing", dataset.categories.things), ("stuff", dataset.categories.stuff)):
        if not categories:
            raise ModelError(f"{dataset.annotations}: no {kind} category; the ends predict things and stuff together")
