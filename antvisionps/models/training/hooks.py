"""What happens at every iteration of a training beside the step: seeds, the progress bar, curves, checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dvclive import Live
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.visualization.vis_backend import BaseVisBackend

from antvisionps.core.errors import ModelError
from antvisionps.core.progress import progress
from antvisionps.models.training.kept_weights import MonitorHook, plain_model


class StartHook(Hook):
    """Calls `start` with the model before the first iteration of all, not with that of a resumed run."""

    priority = "VERY_HIGH"

    def __init__(self, start: Callable[[BaseModel], None] | None) -> None:
        self._start = start

    def before_train(self, runner: Runner) -> None:
        if self._start is not None and runner.iter == 0:
            self._start(plain_model(runner.model))


class ReseedHook(Hook):
    """Sets torch's and numpy's global generators from (seed, iteration, rank) before every iteration."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int, *, rank: int) -> None:
        self._seed = seed
        self._rank = rank

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        state = np.random.SeedSequence((self._seed, runner.iter, *[self._rank] * (self._rank > 0))).generate_state(2)
        torch.manual_seed(int(state[0]))
        np.random.seed(int(state[1]))


class PlainCheckpointHook(Hook):
    """Drops mmengine's history of logged values: torch does not load its objects safely from a checkpoint, and every
    iteration would copy all of it."""

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        runner.message_hub.log_scalars.clear()  # before a checkpoint, whose hook comes last


class SharedLossHook(Hook):
    """Makes what every process logs the mean of all of them, which is the loss of the whole batch."""

    priority = "ABOVE_NORMAL"

    def after_train_iter(self, runner: Runner, outputs: dict[str, Any] | None = None, **_: Any) -> None:
        if outputs:
            values = torch.stack([value.detach().float() for value in outputs.values()])
            all_reduce(values, op="mean")
            outputs.update(zip(outputs, values, strict=True))


class ProgressHook(Hook):
    """A progress bar with the current loss and the last evaluation; refuses to go on when the loss is not finite."""

    def __init__(self, name: str, iterations: int, *, monitor: MonitorHook | None) -> None:
        self._name = name
        self._iterations = iterations
        self._monitor = monitor
        self._loss: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        self._bar = progress(
            description=f"train {self._name}", total=self._iterations, initial=runner.iter, unit="iteration"
        )

    def after_train_iter(self, runner: Runner, outputs: dict[str, Any] | None = None, **_: Any) -> None:
        loss = outputs["loss"].item() if outputs else float("nan")
        if not np.isfinite(loss):
            raise ModelError(
                f"{self._name}: the loss is {loss} at iteration {runner.iter + 1}; lower the learning rate or "
                "max_grad_norm, or lengthen the warm-up"
            )
        self._loss = {"loss": f"{loss:.3f}"}
        self._show()
        self._bar.update()

    def after_train(self, runner: Runner) -> None:
        self._show()
        self._bar.close()

    def _show(self) -> None:
        evaluated = {} if self._monitor is None else self._monitor.values
        self._bar.set_postfix(self._loss | {name: f"{value:.1f}" for name, value in evaluated.items()}, refresh=False)


class CurvesHook(Hook):
    """Every loss and the learning rate, averaged over `interval` iterations, and what `log` gets, as DVCLive curves
    and to `loggers`.

    A checkpoint holds what the interval that it falls in has summed up, so that a resumed run draws the same curves.
    """

    def __init__(self, curves_dir: Path, *, interval: int, loggers: Sequence[BaseVisBackend]) -> None:
        self._curves_dir = curves_dir
        self._loggers = loggers
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
        self._sums, self._count = dict(checkpoint["curves"]["sums"]), checkpoint["curves"]["count"]

    def after_train_iter(self, runner: Runner, outputs: dict[str, Any] | None = None, **_: Any) -> None:
        for key, value in (outputs or {}).items():
            self._sums[key] = self._sums.get(key, 0.0) + value.item()
        self._count += 1
        if (runner.iter + 1) % self._interval == 0:
            self._write(runner)

    def after_train(self, runner: Runner) -> None:
        self._live.end()
        for logger in self._loggers:
            logger.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value, timestamp=False)
        for logger in self._loggers:
            logger.add_scalars(dict(values), step)
        self._live.make_summary()

    def _write(self, runner: Runner) -> None:
        means = {key.replace(".", "/"): value / self._count for key, value in sorted(self._sums.items())}
        self.log(runner.iter + 1, means | {"learning_rate": runner.optim_wrapper.get_lr()["lr"][0]})
        self._sums, self._count = {}, 0


def _drop_points_after(curves_dir: Path, *, step: int) -> None:
    """What was logged between the checkpoint and the kill is logged once more by the resumed run."""
    for path in curves_dir.rglob("*.tsv"):
        lines = path.read_text(errors="replace").splitlines(keepends=True)
        header, rows = lines[:1], lines[1:]
        kept = (row for row in rows if (at := row.split("\t", 1)[0]).isdecimal() and int(at) <= step)
        path.write_text("".join([*header, *kept]))
