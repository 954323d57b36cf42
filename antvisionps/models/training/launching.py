"""Starts the processes of a stage and waits for them; where one fails, all stop, with one error."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Literal

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from antvisionps.core.cores import usable_cores
from antvisionps.core.errors import LaunchError

FAILURES = "ANTVISIONPS_FAILURES"
"""In the environment of a process that a stage started: the folder where it says why it failed."""

SIGNALLED = 128
"""What srun, like a shell, adds to the number of the signal that stopped a process."""

PARENT = "ANTVISIONPS_PARENT"
"""Likewise, where it is a child of the stage's own process: that one's id."""


def launch(launcher: Literal["pytorch", "slurm"], processes: int) -> None:
    """Runs the command of this process in that many, until all are done.

    Raises LaunchError with the message of the process that failed first, or with the signal that killed one. Prints
    the traceback of an error that is not this package's, and raises SystemExit then.
    """
    _share_cores(processes)
    # Tasks of other machines have to see the folder, and the project's own is on a disk that all see.
    disk = "." if launcher == "slurm" else None
    with tempfile.TemporaryDirectory(prefix=".failures-", suffix=".unfinished", dir=disk) as folder:
        os.environ[FAILURES] = str(Path(folder).resolve())
        try:
            statuses = _srun() if launcher == "slurm" else _torchrun(processes)
        finally:
            del os.environ[FAILURES]
        if statuses:
            _explain(Path(folder), statuses, processes)


def _torchrun(processes: int) -> list[int]:
    """The exit statuses of those that failed, after all have stopped; negative where a signal stopped one."""
    logging.disable(logging.CRITICAL)  # this process only waits; torchrun's account of failures would come before ours
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    os.environ[PARENT] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        return [failure.exitcode for failure in error.failures.values()]
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(SIGNALLED + error.sigval) from None
    finally:
        del os.environ[PARENT]
        logging.disable(logging.NOTSET)
    return []


def _srun() -> list[int]:
    """Empty when all tasks ended well, else the largest of their exit statuses, which is srun's; -n for signal n."""
    if "MASTER_PORT" not in os.environ:
        # A batch script runs on the first machine of its job, which is where the tasks meet.
        os.environ["MASTER_PORT"] = str(get_free_port())
    try:
        done = subprocess.run(["srun", "--kill-on-bad-exit=1", sys.executable, *sys.orig_argv[1:]], check=False)
    except FileNotFoundError:
        raise LaunchError(
            "runtime.launcher is slurm, but there is no srun on the PATH; run on a machine of the cluster, or set "
            "runtime.launcher to pytorch or none"
        ) from None
    if done.returncode - SIGNALLED in list(signal.Signals):
        return [SIGNALLED - done.returncode]
    return [done.returncode] if done.returncode else []


def _share_cores(processes: int) -> None:
    threads = max(1, usable_cores() // processes)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    # Processes that are left alone when another dies say so on stderr, in many lines.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _explain(folder: Path, statuses: list[int], processes: int) -> None:
    """Which of the failures was the cause: those that lost the connection to another process failed after it."""
    print(file=sys.stderr)  # the progress bar of a process that was stopped leaves its line open
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    reports.sort(key=lambda report: (bool(report["lost"]), float(report["time"])))
    for report in reports:
        if report["ours"]:
            raise LaunchError(report["text"])
    killed = [-status for status in statuses if status < 0 and status != -signal.SIGTERM]
    if killed:
        raise LaunchError(
            f"one of {processes} processes was killed by {signal.Signals(killed[0]).name}, and the others were "
            "stopped; if it ran out of memory, lower schedule.batch_size or runtime.processes; run `dvc repro` to go on"
        )
    if reports and reports[0]["lost"]:
        raise LaunchError(
            f"the {processes} processes lost one another ({reports[0]['text']}); what stands above may tell which of "
            "them ended first, and why; run `dvc repro` to go on"
        )
    if reports:
        print(reports[0]["text"], file=sys.stderr, end="")
        raise SystemExit(1)
    raise LaunchError(
        f"one of {processes} processes ended with status {min(statuses)}, and said only what stands above"
    )
