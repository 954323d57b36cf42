"""Which weights a training keeps: those of the last iteration or their moving average, at its end or at their best,
and snapshots on the way."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from antvisionps.core.atomic import atomic_folder

Evaluate = Callable[[BaseModel], Mapping[str, float]]
"""Measures a model in evaluation mode: values by name, PQ among them. Every process calls it and gets the same."""

Log = Callable[[int, Mapping[str, float]], None]
"""Draws a point of each curve at that step."""


SaveNetwork = Callable[[Path, BaseModel], None]
"""Writes a network into an existing folder."""


def plain_model(model: Any) -> BaseModel:
    """Without what several processes wrap it in."""
    plain: BaseModel = model.module if is_model_wrapper(model) else model
    return plain


class AverageHook(EMAHook):
    """mmengine's exponential moving average, of what each optimiser step leaves.

    average = (1 - momentum) * average + momentum * weights, beginning with those of the first step. Buffers, as batch
    norm's statistics, are the last ones.
    """

    def __init__(self, momentum: float, *, batches: int) -> None:
        super().__init__("ExponentialMovingAverage", momentum=momentum)
        self._batches = batches

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.every_n_train_iters(runner, self._batches):
            super().after_train_iter(runner, *args, **kwargs)

    @property
    def averaged(self) -> BaseModel:
        model: BaseModel = self.ema_model.module
        return model


class MonitorHook(Hook):
    """Evaluates what would be kept every `interval` batches and at the end, and remembers the best by PQ.

    The best weights stand in every checkpoint, so that they are those of the run that goes on from it.
    """

    priority = "BELOW_NORMAL"  # behind the average, before checkpoints

    def __init__(
        self, evaluate: Evaluate, *, interval: int, keep_best: bool, average: AverageHook | None, log: Log | None
    ) -> None:
        self._evaluate = evaluate
        self._log = log
        self._interval = interval
        self._keep_best = keep_best
        self._average = average
        self.values: dict[str, float] = {}
        self._best_pq = float("-inf")
        self._best_weights: dict[str, torch.Tensor] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["monitor"] = {"values": self.values, "best_pq": self._best_pq, "best_weights": self._best_weights}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["monitor"]
        self.values, self._best_pq = state["values"], state["best_pq"]
        self._best_weights = {name: tensor.cpu() for name, tensor in state["best_weights"].items()}

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        if not self.every_n_train_iters(runner, self._interval) and not self.is_last_train_iter(runner):
            return
        model = current_model(runner, self._average).eval()  # mmengine calls train() before every iteration
        self.values = dict(self._evaluate(model))
        if self._log is not None:
            self._log(runner.iter + 1, {f"monitor/{name}": value for name, value in self.values.items()})
        if self._keep_best and self.values["PQ"] > self._best_pq:
            self._best_pq = self.values["PQ"]
            self._best_weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}

    def restore_best(self, model: BaseModel) -> None:
        """Gives a model the best weights, where they are asked for."""
        if self._best_weights:
            model.load_state_dict(self._best_weights)


class SnapshotHook(Hook):
    """Saves what would be kept after each of these `iterations`, in a folder of their number."""

    priority = "BELOW_NORMAL"  # behind the average

    def __init__(
        self, iterations: Collection[int], save: SaveNetwork, *, folder: Path, batches: int, average: AverageHook | None
    ) -> None:
        self._iterations = iterations
        self._save = save
        self._folder = folder
        self._batches = batches
        self._average = average

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        iteration, rest = divmod(runner.iter + 1, self._batches)
        if rest == 0 and iteration in self._iterations:
            with atomic_folder(self._folder / str(iteration)) as folder:
                self._save(folder, current_model(runner, self._average))


def current_model(runner: Runner, average: AverageHook | None) -> BaseModel:
    """What would be kept now: the average where there is one."""
    return plain_model(runner.model) if average is None else average.averaged
