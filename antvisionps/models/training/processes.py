"""A stage that several processes run together: how they start, find one another, and stop.

`dvc repro` starts one process. With launcher pytorch it starts the others on this machine, as torchrun does; with slurm
srun starts them on the machines of the job. From then on it only waits, and tells why where one of them fails. A
process that torchrun or srun started joins the others through mmengine's launchers, by the environment it finds.
"""

import json
import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Literal

import torch
from mmengine.dist import barrier, init_dist
from torch import distributed, multiprocessing

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import LaunchError, first_line
from antvisionps.core.os_errors import explain
from antvisionps.core.stage import INTERRUPTED
from antvisionps.models.training.device import select_device
from antvisionps.models.training.launching import FAILURES, PARENT, launch

Launcher = Literal["none", "pytorch", "slurm"]

TIMEOUT_S = 6 * 3600
"""How long a process waits for the others: for a slow disk or a short last shard. Where one dies, whoever started them
stops them all."""


@contextmanager
def stage_processes(*, launcher: Launcher, processes: int, device: str, cpu_threads: int) -> Iterator[torch.device]:
    """Yields this process's device; inside, `mmengine.dist` tells its rank and how many processes there are.

    `processes` counts those on this machine, for launcher pytorch; srun's are the job's tasks. Each has `cpu_threads`
    of torch. In a process that has to start the others, they do the work, and SystemExit is raised when all are done.
    Raises LaunchError where they cannot be started, and, from the one that started them, with what the first that
    failed said.
    """
    if launcher == "none":
        yield select_device(device, cpu_threads=cpu_threads)
    elif _was_started_by(launcher):
        with ExitStack() as stack:
            if PARENT in os.environ:
                exit_with_parent(int(os.environ[PARENT]))
            if FAILURES in os.environ:
                stack.push(_report_failure)
            chosen = select_device(device, cpu_threads=cpu_threads)
            _join(launcher, chosen)
            yield chosen
            barrier()
            distributed.destroy_process_group()
    elif (number := _processes_to_start(launcher, processes, device)) == 1:
        yield select_device(device, cpu_threads=cpu_threads)
    else:
        launch(launcher, number)
        raise SystemExit(0)


def _was_started_by(launcher: Launcher) -> bool:
    if FAILURES in os.environ:
        return True
    if launcher == "pytorch":
        return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= set(os.environ)
    # A batch script has SLURM_PROCID too; what srun starts knows its step's number of tasks.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _processes_to_start(launcher: Launcher, processes: int, device: str) -> int:
    if launcher == "slurm":
        tasks = os.environ.get("SLURM_NTASKS")
        if tasks is None:
            raise LaunchError(
                "runtime.launcher is slurm, but SLURM_NTASKS is not set; run `dvc repro` in a job that asks for a "
                "number of tasks (sbatch --ntasks-per-node), or set runtime.launcher to none"
            )
        return int(tasks)
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if 0 < gpus < processes:
        raise LaunchError(
            f"runtime.processes is {processes}, but torch sees {gpus} GPUs here; expected at most one each"
        )
    return processes


def _join(launcher: Launcher, device: torch.device) -> None:
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")  # as the Runner would; mmengine's launchers choose spawn before it
    on_gpu = device.type == "cuda"
    with nullcontext() if on_gpu else _no_gpu_to_choose():
        try:
            init_dist(launcher, backend="nccl" if on_gpu else "gloo", timeout=TIMEOUT_S)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise LaunchError(_refusal(error, on_gpu=on_gpu)) from error


def _refusal(error: Exception, *, on_gpu: bool) -> str:
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not on_gpu or local_rank < gpus:
        return f"the processes did not find one another: {error}"
    return (
        f"process {local_rank} of this machine has no GPU of its own, torch sees {gpus}; start as many processes as "
        "GPUs, and let each see all of them (srun: --gpus-per-node, not --gpus-per-task)"
    )


@contextmanager
def _no_gpu_to_choose() -> Iterator[None]:
    """mmengine's launchers give every process a GPU by its rank, and torch refuses that where there is none."""
    set_device = torch.cuda.set_device
    torch.cuda.set_device = lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = set_device


def exit_with_parent(parent: int) -> None:
    """Exits this process when process `parent` is gone, be it before this call.

    A process that is left alone would go on, or wait hours for the others where they meet.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _report_failure(
    kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
) -> None:
    """Leaves an error to the stage that started this process, and exits without waiting.

    Connections to the others may hang when they are closed, so nothing is closed.
    """
    if error is None:
        return
    if isinstance(error, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    lost, line = _lost_another(error), explain(error)
    text = first_line(error) if lost else line or "".join(traceback.format_exception(error))
    report = {"time": time.time(), "lost": lost, "ours": line is not None, "text": text}
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    with atomic_file(Path(os.environ[FAILURES]) / f"{rank}.json") as path:
        path.write_text(json.dumps(report), encoding="utf-8")
    os._exit(1)


def _lost_another(error: BaseException) -> bool:
    """Whether the connection to another process broke: NCCL and the store have errors of their own, gloo has not."""
    return isinstance(error, distributed.DistError) or "gloo/transport/" in str(error)
