"""Training on mmengine's Runner: seeded, resumable after a kill, with progress and DVCLive curves.

Nothing random outlives an iteration: the samples, and torch's generator, are set from (seed, iteration). So a run that
was killed and resumed ends in the same weights as one that was not (on the CPU; CUDA's sums are unordered).

Several processes share every batch: the images are those of one process, and so is the loss; only the random choice of
anchors and RoIs, which each process makes for its own images, is another.
"""

import contextlib
import io
import logging
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import barrier, get_dist_info
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.visualization.vis_backend import BaseVisBackend

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.state_dicts import first_unusable, load_checked
from antvisionps.models.blocks.whole_batch import share_batch
from antvisionps.models.training import hooks
from antvisionps.models.training.kept_weights import (
    AverageHook,
    Evaluate,
    MonitorHook,
    SaveNetwork,
    SnapshotHook,
    current_model,
)
from antvisionps.models.training.loading import open_loader
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.models.training.samples import TrainingSamples
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.models.training.weights import SNAPSHOTS_DIR

CURVES_DIR = "curves"


def train(
    build_model: Callable[[], BaseModel],
    samples: TrainingSamples,
    settings: TrainingSettings,
    *,
    start: Callable[[BaseModel], None] | None = None,
    name: str,
    checkpoint_interval: int,
    workers: int,
    work_dir: Path,
    save: SaveNetwork,
    evaluate: Evaluate | None = None,
    loggers: Sequence[BaseVisBackend] = (),
) -> BaseModel:
    """The trained model, on the device that mmengine chose. The Runner calls its `init_weights`, then `start`, unless
    an interrupted run goes on.

    Without `evaluate` nothing is measured, and the last weights are kept. `loggers` get every point of the curves.

    Checkpoints are kept in `work_dir`, curves as DVCLive's TSV files in `work_dir`/curves, and the settings' snapshots,
    by `save`, in `work_dir`/snapshots/ITERATION; if it holds some of an interrupted run, that run goes on, so the
    caller gives every different run another folder. Raises ModelError where
    the processes cannot share a batch equally, and when the loss is no longer finite.
    """
    rank, processes = get_dist_info()
    loader = open_loader(samples, settings, workers=workers)
    torch.manual_seed(settings.seed)
    model = build_model()
    save_memory(model, **settings.memory)
    if processes > 1:
        model = share_batch(model, torch.device(get_device()))
    with contextlib.redirect_stdout(io.StringIO()):
        import mmdet.datasets  # noqa: F401  the Runner imports it, and it prints about a package that nobody needs
    if rank == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        _drop_damaged_checkpoints(work_dir)
    barrier()
    # mmengine counts batches, `iterations` and all that is measured in them count optimiser steps.
    batches = settings.optimizer["accumulated_batches"]
    average, monitor, own_hooks = _own_hooks(settings, name, work_dir, save, evaluate, loggers)
    with _quiet(rank):
        runner = Runner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=loader,
            optim_wrapper=optim_wrapper(**settings.optimizer),
            custom_hooks=[*own_hooks, hooks.StartHook(start)],
            randomness={"seed": settings.seed},
            **_loop_settings(settings, batches, checkpoint_interval),
            **_launched(processes),
            resume=True,
            log_level="ERROR",
            default_scope="mmdet",
            experiment_name=uuid.uuid4().hex,  # mmengine refuses two runs of a name in one process
        )
        _close_log(runner.logger)
        runner.train()
    trained = current_model(runner, average)
    if monitor is not None:
        monitor.restore_best(trained)
    return trained


def _close_log(logger: logging.Logger) -> None:
    """While mmengine's log file is open, here or in a forked process, NFS keeps its folder from being removed."""
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def _own_hooks(
    settings: TrainingSettings,
    name: str,
    work_dir: Path,
    save: SaveNetwork,
    evaluate: Evaluate | None,
    loggers: Sequence[BaseVisBackend],
) -> tuple[AverageHook | None, MonitorHook | None, list[Hook]]:
    """Of several processes, the first shows progress, draws curves and saves snapshots."""
    rank, processes = get_dist_info()
    batches = settings.optimizer["accumulated_batches"]
    own: list[Hook] = [hooks.ReseedHook(settings.seed, rank=rank), hooks.PlainCheckpointHook()]
    if processes > 1:
        own.append(hooks.SharedLossHook())
    average = monitor = curves = None
    if settings.ema_momentum is not None:
        average = AverageHook(settings.ema_momentum, batches=batches)
    if rank == 0:
        interval = settings.curve_interval * batches
        curves = hooks.CurvesHook(work_dir / CURVES_DIR, interval=interval, loggers=loggers)
    if evaluate is not None and settings.evaluate_interval is not None:
        monitor = MonitorHook(
            evaluate,
            interval=settings.evaluate_interval * batches,
            keep_best=settings.keep == "best",
            average=average,
            log=None if curves is None else curves.log,
        )
    if rank == 0:
        own.append(hooks.ProgressHook(name, settings.schedule["iterations"] * batches, monitor=monitor))
        folder = work_dir / SNAPSHOTS_DIR
        own.append(SnapshotHook(settings.snapshots, save, folder=folder, batches=batches, average=average))
    return average, monitor, own + [hook for hook in (average, curves, monitor) if hook is not None]


def _loop_settings(settings: TrainingSettings, batches: int, checkpoint_interval: int) -> dict[str, Any]:
    """mmengine's loop, learning rates and checkpoints, all counted in batches; a step takes `batches` of them."""
    schedule = settings.schedule
    iterations = schedule["iterations"] * batches
    checkpoints = {"type": "CheckpointHook", "by_epoch": False, "max_keep_ckpts": 2}
    return {
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_interval": iterations + 1},
        "param_scheduler": _learning_rates(
            iterations,
            schedule["warmup_iterations"] * batches,
            schedule["policy"],
            [step * batches for step in schedule["milestones"]],
        ),
        "default_hooks": {
            "timer": None,
            "logger": None,
            "sampler_seed": None,
            "checkpoint": checkpoints | {"interval": checkpoint_interval * batches},
        },
    }


def _launched(processes: int) -> dict[str, Any]:
    """How mmengine wraps the model of several processes, which are connected whatever started them."""
    if processes == 1:
        return {"launcher": "none"}
    # Every parameter has a gradient in every batch, a zero one without a thing, so that none has to be searched for.
    wrapper: dict[str, Any] = {"broadcast_buffers": False}
    if get_device() != "cuda":
        wrapper["device_ids"] = None
    return {"launcher": "pytorch", "cfg": {"model_wrapper_cfg": wrapper}}


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


def _learning_rates(iterations: int, warmup: int, policy: str, milestones: Sequence[int]) -> list[dict[str, Any]]:
    """Linear warm-up, then a cosine to zero or steps of a tenth at the milestones."""
    schedule: list[dict[str, Any]] = []
    if warmup:
        schedule.append({"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": warmup})
    if policy == "cosine":
        cosine = {"type": "CosineAnnealingLR", "by_epoch": False, "eta_min": 0.0}
        schedule.append(cosine | {"T_max": iterations - warmup, "begin": warmup, "end": iterations})
    else:
        schedule.append({"type": "MultiStepLR", "by_epoch": False, "milestones": milestones, "gamma": 0.1})
    return schedule


def _drop_damaged_checkpoints(work_dir: Path) -> None:
    """A kill can leave the newest checkpoint unreadable; training goes on from the one before, or starts afresh."""
    pointer = work_dir / "last_checkpoint"
    iteration_of = {path: path.stem.removeprefix("iter_") for path in work_dir.glob("iter_*.pth")}
    numbered = [path for path, iteration in iteration_of.items() if iteration.isdecimal()]
    for checkpoint in sorted(numbered, key=lambda path: -int(iteration_of[path])):
        if _is_whole(checkpoint):
            pointer.write_text(str(checkpoint))
            return
        print(f"{checkpoint}: cannot be read and is left out; training goes on from an earlier one", file=sys.stderr)
        checkpoint.unlink()
    pointer.unlink(missing_ok=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = load_checked(checkpoint, remedy="")
        return not first_unusable(state["state_dict"])
    except (ModelError, KeyError, AttributeError):
        return False
