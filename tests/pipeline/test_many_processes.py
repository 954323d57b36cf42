"""Stages that run in two real processes, started by themselves as torchrun does or by srun, interrupted and not."""

import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.forks import fork_two
from tests.pipeline.workspace import PROJECT, bytes_below, change_params, fail, succeed
from tests.slurm_cluster import missing_packages, slurm_cluster

PREDICT = "predict --ends e_ups --prepared data/prepared --models data/models --work work --predictions cache"
TRAIN = "train_e_ups --member base --prepared data/prepared --work work --out out"
TRAINING = {  # all that could meet DDP
    "train_e_ups": {
        "schedule": {"iterations": 4, "warmup_iterations": 1},
        "memory": {"checkpointed_stages": [1, 4]},
        "optimizer": {"accumulated_batches": 2},
        "evaluate_interval": 2,
        "ema_momentum": 0.5,
        "keep": "best",
    },
    "runtime": {"loader_workers": 1},
}


def fill(folder: Path, tiny_run: Path) -> Path:
    """The folder, with the tiny run's data and params that ask for two processes."""
    for name in ("data/prepared", "data/models"):
        shutil.copytree(tiny_run / name, folder / name)
    runtime = {"launcher": "pytorch", "processes": 2, "checkpoint_interval": 1}
    change_params(tiny_run / "params.yaml", folder / "params.yaml", runtime=runtime)
    return folder


def change(project: Path, **changes: dict) -> None:
    change_params(project / "params.yaml", project / "params.yaml", **changes)


@pytest.fixture
def project(tiny_run, tmp_path) -> Path:
    return fill(tmp_path, tiny_run)


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory) -> Path:
    """What a training in two processes ends in that nobody disturbed."""
    project = fill(tmp_path_factory.mktemp("whole"), tiny_run)
    change(project, **TRAINING)
    assert fork_two(run_here, project, command_of(TRAIN)) == [0, 0]
    return project / "out"


def run_here(folder: Path, command: list[str]) -> None:
    os.chdir(folder)
    sys.argv = command[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


def command_of(stage: str) -> list[str]:
    name, *arguments = stage.split()
    return [sys.executable, str(PROJECT / "stages" / f"{name}.py"), *arguments]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | more


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(), **pipes)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    printed, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def wait_for(condition: Callable[[], bool], has_ended: Callable[[], bool], what: str) -> None:
    while not condition():
        assert not has_ended(), f"ended before {what}"
        time.sleep(0.02)


def checkpoints(project: Path) -> set[str]:
    """What the files hold that name the last one."""
    return {path.read_text() for path in (project / "work").rglob("last_checkpoint")}


def assert_trained_alike(project: Path, trained: Path) -> None:
    assert bytes_below(project / "out") == bytes_below(trained)
    assert not list((project / "work").rglob("*.pth"))


PROGRAM = """
import os, sys, time, torch, types
models = sys.modules["antvisionps.models"] = types.ModuleType("models")  # its own imports mmcv and torchvision
models.__path__ = [os.environ["PYTHONPATH"] + "/antvisionps/models"]
from antvisionps.core.errors import DataError
from antvisionps.core.stage import run_stage
from antvisionps.models.training.processes import stage_processes

def main():
    launcher, what = sys.argv[1:]
    with stage_processes(launcher=launcher, processes=2, device="cpu", cpu_threads=1):
        if what == "fail" and os.environ["RANK"] == "1":
            raise DataError("photo.png: no photo")
        if what == "wait" and os.environ["RANK"] == "1":
            open("both", "w").close()
            time.sleep(120)
        torch.distributed.all_reduce(torch.ones(1))

run_stage(main)
"""
"""A stage that needs no data and loads no network."""


def program(folder: Path, *arguments: str) -> list[str]:
    (folder / "program.py").write_text(PROGRAM)
    return [sys.executable, "program.py", *arguments]


def test_an_error_of_one_process_is_told_once_and_ends_both(tmp_path):
    assert fail(finish(start(tmp_path, program(tmp_path, "pytorch", "fail")))) == "error: photo.png: no photo"


def test_processes_end_when_their_stage_is_killed(tmp_path):
    stage = start(tmp_path, program(tmp_path, "pytorch", "wait"))
    children = psutil.Process(stage.pid).children
    wait_for(lambda: len(children()) == 2, lambda: stage.poll() is not None, "two processes")
    started = children()
    stage.kill()
    finish(stage)  # their stderr as well, so this ends as they do
    assert not psutil.wait_procs(started, timeout=30)[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """SLURM_CONF of a cluster of two nodes."""
    if missing := missing_packages():
        not_here = f"no {', '.join(missing)} here; `make slurm` installs Debian's"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(not_here)
    with slurm_cluster() as configuration:
        yield configuration


@pytest.fixture
def slurm(cluster, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster)


@pytest.fixture
def slurm_project(project, slurm) -> Path:
    change(project, runtime={"launcher": "slurm", "processes": 1})
    return project


def batch_script(command: list[str]) -> str:
    """docs/scale.md's, with one task a node, no GPUs, and this command instead of all stages."""
    page = (PROJECT / "docs" / "scale.md").read_text()
    script = textwrap.dedent(page[page.index("    #SBATCH") :].partition("\n\n")[0])
    changes = {"--gpus-per-node=8 ": "", "=(8|12)": "=1", "source .*": "", "dvc repro": shlex.join(command)}
    for shown, here in changes.items():
        assert re.search(shown, script)
        script = re.sub(shown, here, script)
    return f"#!/bin/bash\n{script}\n"


def submit(folder: Path, command: list[str], **more: str) -> str:
    """The id of the job."""
    (folder / "job.sh").write_text(batch_script(command))
    sbatch = ["sbatch", "--parsable", "--output=printed", "--error=errors", "job.sh"]
    return subprocess.check_output(sbatch, cwd=folder, env=environment(**more), text=True).strip()


def exit_status(job: str) -> int | None:
    shown = subprocess.check_output(["scontrol", "--oneliner", "show", "job", job], text=True)
    ended = re.search(r"JobState=(?:COMPLETED|FAILED) .*ExitCode=(\d+)", shown)
    return int(ended[1]) if ended else None


def finish_job(folder: Path, job: str) -> subprocess.CompletedProcess:
    while (status := exit_status(job)) is None:
        time.sleep(0.1)
    printed, errors = ((folder / name).read_text() for name in ("printed", "errors"))
    return subprocess.CompletedProcess(job, status, printed, errors)


def run_job(folder: Path, command: list[str], **more: str) -> subprocess.CompletedProcess:
    return finish_job(folder, submit(folder, command, **more))


def second_task(job: str) -> psutil.Process:
    """And not its data loader, which has the same environment."""
    its_own = {"SLURM_JOB_ID": job, "SLURM_PROCID": "1"}.items()
    running = psutil.process_iter(["environ", "create_time"])
    found = [process for process in running if its_own <= (process.info["environ"] or {}).items()]
    return min(found, key=lambda process: process.info["create_time"])


@contextmanager
def taken_port(port: int = 0) -> Iterator[str]:
    with socket.socket() as server:
        with suppress(OSError):  # another program has it
            server.bind(("", port))
            server.listen()
        yield str(server.getsockname()[1])


def test_tasks_of_a_slurm_job_predict_the_bytes_of_one_process(slurm_project, tiny_run):
    with taken_port(29500):  # where tasks meet that were told no port
        ran = run_job(slurm_project, command_of(PREDICT))
    assert succeed(ran).stderr.count("process 1 of 2:   0%") == 2  # one bar a split begins
    files = bytes_below(slurm_project / "cache" / "e_ups")
    assert files == bytes_below(tiny_run / "data" / "predictions" / "e_ups")
    assert {path.name for path in files} == {"instances.parquet", "semantic.parquet"}
    assert not list(slurm_project.glob(".failures-*"))


@pytest.mark.usefixtures("slurm")
def test_an_error_of_a_slurm_task_is_told_once_and_ends_the_job(tmp_path):
    with taken_port() as port:
        error = fail(run_job(tmp_path, program(tmp_path, "slurm", "pass"), MASTER_PORT=port))
    assert re.search(rf"the processes did not find one another: .* port: {port}, .*address already in use", error)


@pytest.mark.usefixtures("slurm")
def test_a_slurm_task_that_is_killed_ends_the_job(tmp_path):
    job = submit(tmp_path, program(tmp_path, "slurm", "wait"))
    wait_for(lambda: (tmp_path / "both").exists(), lambda: exit_status(job) is not None, "two processes")
    second_task(job).kill()
    ran = finish_job(tmp_path, job)
    # Where srun stops the other one, its status is SIGTERM's, whether that one noticed before or not.
    assert re.search("was killed by SIGKILL|the 2 processes lost one another|ended with status -15", fail(ran))
    assert "task 1: Killed" in ran.stderr


def test_a_training_that_is_killed_under_torchrun_ends_under_slurm_in_the_weights_of_one_that_was_not(
    slurm_project, trained
):
    project = slurm_project
    change(project, **TRAINING)
    change(project, runtime={"launcher": "pytorch", "processes": 2})
    stage = start(project, command_of(TRAIN))
    wait_for(lambda: checkpoints(project) != set(), lambda: stage.poll() is not None, "a checkpoint")
    psutil.Process(stage.pid).children()[1].kill()
    assert "one of 2 processes was killed by SIGKILL, and the others were stopped" in fail(finish(stage))
    assert not (project / "out").exists()

    change(project, runtime={"launcher": "slurm", "processes": 1})
    succeed(run_job(project, command_of(TRAIN)))
    assert_trained_alike(project, trained)
