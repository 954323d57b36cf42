"""Training curves in TensorBoard, Weights & Biases and MLflow, by mmengine's visualisation backends.

Nothing leaves the machine unless the variables of those tools ask for it: WANDB_MODE=online, MLFLOW_TRACKING_URI.
"""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.visualization.vis_backend import (
    BaseVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
    force_init_env,
)

from antvisionps.core.errors import ModelError

PROJECT = "antvisionps"


class WandbBackend(WandbVisBackend):
    """mmengine's, but it logs the step, and closes: mmengine calls a function that wandb no longer has."""

    @force_init_env
    def add_scalars(self, scalar_dict: Mapping[str, float], step: int = 0, **_: Any) -> None:
        self._wandb.log(dict(scalar_dict), step=step)

    def close(self) -> None:
        if hasattr(self, "_wandb"):
            self._wandb.finish()


class MLflowBackend(MLflowVisBackend):
    """mmengine's, but it closes every run: mmengine closes only one that has its Runner's config."""

    def close(self) -> None:
        if hasattr(self, "_mlflow"):
            self._mlflow.end_run()


def open_loggers(loggers: Sequence[str], *, name: str, folder: Path) -> list[BaseVisBackend]:
    """A backend for each of runtime.loggers, begun, which writes below the folder what it does not send to a server.

    Raises ModelError where the package of one is not installed.
    """
    for package in loggers:
        if find_spec(package) is None:
            raise ModelError(
                f"runtime.loggers: expected package {package}, which is not installed; run "
                "`pip install 'antvisionps[loggers]'`"
            )
    opened = [_backend(logger, name, str(folder / logger)) for logger in loggers]
    for backend in opened:
        _ = backend.experiment  # begins here, not in the middle of the training
    return opened


def _backend(logger: str, name: str, folder: str) -> BaseVisBackend:
    if logger == "tensorboard":
        return TensorboardVisBackend(folder)
    if logger == "wandb":
        mode = os.environ.get("WANDB_MODE", "offline")
        return WandbBackend(folder, init_kwargs={"project": PROJECT, "name": name, "mode": mode})
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    return MLflowBackend(folder, exp_name=PROJECT, run_name=name, tracking_uri=tracking_uri)
