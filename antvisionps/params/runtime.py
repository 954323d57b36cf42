"""How to run, which changes no result after predict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from antvisionps.params.section import Positive, Section

MAX_PROCESSORS = 4096
"""Of one machine, or of all that a run has."""

Processors = Annotated[int, Field(ge=1, le=MAX_PROCESSORS)]


class Runtime(Section):
    """How to run. No stage lists this section among its params, and after predict it never changes what comes out."""

    device: Literal["auto", "cpu", "cuda"]
    cpu_threads: Processors
    launcher: Literal["none", "pytorch", "slurm"]
    processes: Processors
    workers: Processors
    backend: Literal["processes", "dask"]
    cluster: Annotated[str, Field(min_length=1)] | None
    loader_workers: Annotated[int, Field(ge=0, le=MAX_PROCESSORS)]
    checkpoint_interval: Positive
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...]

    @model_validator(mode="after")
    def _settings_fit(self) -> Runtime:
        if self.launcher == "none" and self.processes > 1:
            raise ValueError(f"processes is {self.processes}, but launcher none starts one; set launcher to pytorch")
        if self.cluster is not None and self.backend == "processes":
            raise ValueError(
                f"cluster is {self.cluster}, but backend is processes, which uses none; set backend to dask, or "
                "cluster to null"
            )
        return self

    def training_arguments(self) -> dict[str, Any]:
        """What a training is called with of it, as plain values."""
        names = {"device", "cpu_threads", "launcher", "processes", "loader_workers", "checkpoint_interval", "loggers"}
        return self.model_dump(include=names)

    def process_arguments(self) -> dict[str, Any]:
        """How the processes of a prediction start and on what they run, as plain values."""
        return self.model_dump(include={"device", "cpu_threads", "launcher", "processes"})

    def worker_arguments(self) -> dict[str, Any]:
        """What the work on images is shared by, as plain values."""
        return self.model_dump(include={"workers", "backend", "cluster"})
