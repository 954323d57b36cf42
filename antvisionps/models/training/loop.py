"""Training on mmengine's Runner: seeded, resumable after a kill, with progress and DVCLive curves.

Nothing random outlives an iteration: the samples, and torch's generator, are set from (seed, iteration). So a run that
was killed and resumed ends in the same weights as one that was not (on the CPU; CUDA's sums are unordered).

Several processes share every batch: the images are those of one process, and so is the loss; only the random choice of
anchors and RoIs, which each process makes for its own images, is another.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvclive import Live
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from antvisionps.core.errors import ModelError
from antvisionps.core.progress import progress
from antvisionps.models.blocks.whole_batch import share_batch
from antvisionps.models.training.data import Sample, SampleOrder, collate
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.models.training.processes import end_with_parent


def train(
    build_model: Callable[[], BaseModel],
    samples: Dataset[Sample],
    *,
    name: str,
    num_images: int,
    seed: int,
    iterations: int,
    batch_size: int,
    warmup_iterations: int,
    policy: str,
    milestones: tuple[int, ...],
    optimizer: Mapping[str, Any],
    memory: Mapping[str, Any],
    checkpoint_interval: int,
    curve_interval: int,
    workers: int,
    work_dir: Path,
    curves_dir: Path,
) -> BaseModel:
    """The trained model, on the device that mmengine chose. The Runner calls its `init_weights`.

    Checkpoints are kept in `work_dir`; if it holds some of an interrupted run, that run goes on, so the caller gives
    every different run another folder. Curves are written to `curves_dir` as DVCLive's TSV files. `batch_size` is what
    all processes load together. Raises ModelError where they cannot share it equally, and when the loss is no longer
    finite.
    """
    rank, processes = get_dist_info()
    own_batch_size = _share_of_batch(batch_size, processes)
    torch.manual_seed(seed)
    model = build_model()
    save_memory(model, checkpointed_stages=memory["checkpointed_stages"], channels_last=memory["channels_last"])
    if processes > 1:
        model = share_batch(model, torch.device(get_device()))
    # mmengine counts batches, `iterations` and all that is measured in them count optimiser steps.
    batches = optimizer["accumulated_batches"]
    loader = DataLoader(
        samples,
        batch_size=own_batch_size,
        sampler=SampleOrder(
            num_images=num_images, seed=seed, batch_size=own_batch_size, rank=rank, processes=processes
        ),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        import mmdet.datasets  # noqa: F401  the Runner imports it, and it prints about a package that nobody needs
    if rank == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        _drop_damaged_checkpoints(work_dir)
    barrier()
    with _quiet(rank):
        runner = Runner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=loader,
            train_cfg={
                "type": "IterBasedTrainLoop",
                "max_iters": iterations * batches,
                "val_interval": iterations * batches + 1,
            },
            optim_wrapper=optim_wrapper(**optimizer),
            param_scheduler=_schedule(
                iterations * batches, warmup_iterations * batches, policy, tuple(step * batches for step in milestones)
            ),
            default_hooks={
                "timer": None,
                "logger": None,
                "sampler_seed": None,
                "checkpoint": {
                    "type": "CheckpointHook",
                    "by_epoch": False,
                    "interval": checkpoint_interval * batches,
                    "max_keep_ckpts": 2,
                },
            },
            custom_hooks=[
                ReseedHook(seed, rank=rank),
                PlainCheckpointHook(),
                *([SharedLossHook()] if processes > 1 else []),
                *([ProgressHook(name, iterations * batches)] if rank == 0 else []),
                *([CurvesHook(curves_dir, interval=curve_interval * batches)] if rank == 0 else []),
            ],
            launcher="none" if processes == 1 else "pytorch",  # whatever started them, they are connected by now
            cfg={"model_wrapper_cfg": _ddp()} if processes > 1 else None,
            resume=True,
            randomness={"seed": seed},
            log_level="ERROR",
            default_scope="mmdet",
            experiment_name=uuid.uuid4().hex,  # mmengine refuses two runs of a name in one process
        )
        trained = runner.train()
    return trained.module if is_model_wrapper(trained) else trained


@contextlib.contextmanager
def _quiet(rank: int) -> Iterator[None]:
    """Without warnings that lead nowhere, and of several processes only the first prints."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        # The learning rate moves with every batch, so with accumulated ones before the first step.
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
        # mmengine's wrapper is still made with that name.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        if rank > 0:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


def _share_of_batch(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise ModelError(
            f"schedule.batch_size is {batch_size}, which {processes} processes cannot share equally; expected a "
            f"multiple of {processes}: change schedule.batch_size or runtime.processes"
        )
    return batch_size // processes


def _ddp() -> dict[str, Any]:
    """mmengine's wrapper. An image without a thing leaves parameters without a gradient on its process alone."""
    wrapper: dict[str, Any] = {"find_unused_parameters": True, "broadcast_buffers": False}
    return wrapper if torch.cuda.is_available() else wrapper | {"device_ids": None}


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    end_with_parent(os.getppid())


def _schedule(iterations: int, warmup: int, policy: str, milestones: tuple[int, ...]) -> list[dict[str, Any]]:
    """Linear warm-up, then a cosine to zero or steps of a tenth at the milestones."""
    schedule: list[dict[str, Any]] = []
    if warmup:
        schedule.append({"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": warmup})
    if policy == "cosine":
        cosine = {"type": "CosineAnnealingLR", "by_epoch": False, "eta_min": 0.0}
        schedule.append(cosine | {"T_max": iterations - warmup, "begin": warmup, "end": iterations})
    else:
        schedule.append({"type": "MultiStepLR", "by_epoch": False, "milestones": list(milestones), "gamma": 0.1})
    return schedule


def _drop_damaged_checkpoints(work_dir: Path) -> None:
    """A kill can leave the newest checkpoint unreadable; training goes on from the one before, or starts afresh."""
    pointer = work_dir / "last_checkpoint"
    newest_first = sorted(work_dir.glob("iter_*.pth"), key=lambda path: -int(path.stem.removeprefix("iter_")))
    for checkpoint in newest_first:
        if zipfile.is_zipfile(checkpoint):  # torch's files are zip archives, whose index is written last
            pointer.write_text(str(checkpoint))
            return
        print(f"{checkpoint}: cannot be read and is left out; training goes on from an earlier one", file=sys.stderr)
        checkpoint.unlink()
    pointer.unlink(missing_ok=True)


def _drop_points_after(curves_dir: Path, *, step: int) -> None:
    """What was logged between the checkpoint and the kill is logged once more by the resumed run."""
    for path in curves_dir.rglob("*.tsv"):
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join([header, *(row for row in rows if int(row.split("\t", 1)[0]) <= step)]))


class ReseedHook(Hook):
    """Sets torch's and numpy's global generators from (seed, iteration, rank) before every iteration."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int, *, rank: int) -> None:
        self._seed = seed
        self._rank = rank

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        state = np.random.SeedSequence((self._seed, runner.iter, *[self._rank] * (self._rank > 0))).generate_state(2)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))


class PlainCheckpointHook(Hook):
    """Keeps mmengine's history of logged values out of checkpoints: torch does not load its objects safely."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["message_hub"]["log_scalars"] = {}


class SharedLossHook(Hook):
    """Makes what every process logs the mean of all of them, which is the loss of the whole batch."""

    priority = "ABOVE_NORMAL"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if outputs:
            values = torch.stack([value.detach().float() for value in outputs.values()])
            all_reduce(values, op="mean")
            outputs.update(zip(outputs, values, strict=True))


class ProgressHook(Hook):
    """A progress bar with the current loss; refuses to go on when the loss is not finite."""

    def __init__(self, name: str, iterations: int) -> None:
        self._name = name
        self._iterations = iterations

    def before_train(self, runner: Runner) -> None:
        self._bar = progress(
            description=f"train {self._name}", total=self._iterations, initial=runner.iter, unit="iteration"
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        loss = outputs["loss"].item() if outputs else float("nan")
        if not np.isfinite(loss):
            raise ModelError(
                f"{self._name}: the loss is {loss} at iteration {runner.iter + 1}; lower the learning rate or "
                "max_grad_norm, or lengthen the warm-up"
            )
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update()

    def after_train(self, runner: Runner) -> None:
        self._bar.close()


class CurvesHook(Hook):
    """Every loss and the learning rate, averaged over `interval` iterations, as DVCLive curves.

    A checkpoint holds what the interval that it falls in has summed up, so that a resumed run draws the same curves.
    """

    def __init__(self, curves_dir: Path, *, interval: int) -> None:
        self._curves_dir = curves_dir
        self._interval = interval
        self._sums: dict[str, float] = {}
        self._count = 0

    def before_train(self, runner: Runner) -> None:
        resumed = runner.iter > 0
        if resumed:
            _drop_points_after(self._curves_dir, step=runner.iter)
        self._live = Live(str(self._curves_dir), resume=resumed, save_dvc_exp=False, dvcyaml=None, report=None)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["curves"] = {"sums": self._sums, "count": self._count}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if "curves" in checkpoint:
            self._sums, self._count = dict(checkpoint["curves"]["sums"]), checkpoint["curves"]["count"]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        for key, value in (outputs or {}).items():
            self._sums[key] = self._sums.get(key, 0.0) + value.item()
        self._count += 1
        if (runner.iter + 1) % self._interval == 0:
            self._write(runner)

    def after_train(self, runner: Runner) -> None:
        self._live.end()

    def _write(self, runner: Runner) -> None:
        self._live.step = runner.iter + 1
        for key, value in sorted(self._sums.items()):
            self._live.log_metric(key.replace(".", "/"), value / self._count, timestamp=False)
        self._live.log_metric("learning_rate", runner.optim_wrapper.get_lr()["lr"][0], timestamp=False)
        self._live.make_summary()
        self._sums, self._count = {}, 0
