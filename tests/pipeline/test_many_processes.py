"""Stages that run in two real processes, started by themselves as torchrun does or by srun, interrupted and not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.tiny_run import PROJECT

PATIENCE_S = 300
"""A stage that takes longer hangs."""

SRUN = """#!{python}
import os, subprocess, sys
command = sys.argv[1:]
assert command.pop(0) == "--kill-on-bad-exit=1"
tasks = []
for rank in range(2):
    step = {{"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}}
    tasks.append(subprocess.Popen(command, env=os.environ | step))
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/sh
test "$*" = "show hostname node[1-2]" || exit 1
echo localhost
echo localhost-too
"""


@pytest.fixture
def project(tiny_run, tmp_path) -> Path:
    """A folder with the tiny run's data, whose params ask for two processes."""
    for name in ("data/prepared", "data/models"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    shutil.copy2(tiny_run / "params.yaml", tmp_path)
    change_params(tmp_path, runtime={"launcher": "pytorch", "processes": 2, "checkpoint_interval": 1})
    return tmp_path


def change_params(project: Path, **sections) -> None:
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(project / "params.yaml")
    for place, settings in sections.items():
        section, _, part = place.partition("__")
        (params[section][part] if part else params[section]).update(settings)
    yaml.dump(params, project / "params.yaml")


def start(project: Path, stage: str, **environment: str) -> subprocess.Popen:
    name, *arguments = stage.split()
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "stages" / f"{name}.py"), *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(project: Path, stage: str, **environment: str) -> tuple[int, str]:
    """Exit status and stderr."""
    process = start(project, stage, **environment)
    errors = process.communicate(timeout=PATIENCE_S)[1]
    return process.returncode, errors


def predict(end: str, out: str) -> str:
    return f"predict --end {end} --split val --prepared data/prepared --models data/models/{end} --out {out}"


def train(out: str) -> str:
    return f"train_e_ups --member base --prepared data/prepared --work work/{out} --out {out}"


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def runs(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, running: subprocess.Popen, what: str) -> None:
    while not condition():
        assert running.poll() is None, f"ended before {what}"
        time.sleep(0.02)


def only_error(stderr: str) -> str:
    assert "Traceback" not in stderr
    (error,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return error


def test_predictions_by_two_processes_are_those_of_one_to_the_last_byte(project, tiny_run):
    status, errors = run(project, predict("e_ups", "cache"))
    assert status == 0, errors
    assert errors.count("process 1 of 2:   0%") == 1  # one bar begins
    files = {path.name: path.read_bytes() for path in (project / "cache").iterdir()}
    expected = tiny_run / "data" / "predictions" / "e_ups" / "val"
    assert files == {path.name: path.read_bytes() for path in expected.iterdir()}
    assert set(files) == {"instances.parquet", "semantic.parquet"}


def test_tasks_of_a_slurm_job_predict_the_same_bytes(project, tiny_run):
    programs = project / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    # A batch script's own environment has a SLURM_PROCID too.
    job = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    change_params(project, runtime={"launcher": "slurm", "processes": 1})
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    status, errors = run(project, predict("hrnet_aspp", "cache"), PATH=path, **job)
    assert status == 0, errors
    expected = tiny_run / "data" / "predictions" / "hrnet_aspp" / "val" / "semantic.parquet"
    assert (project / "cache" / "semantic.parquet").read_bytes() == expected.read_bytes()
    assert [file.name for file in (project / "cache").iterdir()] == ["semantic.parquet"]
    assert not list(project.glob(".failures-*"))


def test_an_error_of_one_process_ends_both_with_its_message_alone(project):
    photo = project / "data" / "prepared" / "images" / "000001000002.png"
    photo.write_bytes(b"no photo")  # the second image of val is the second process's
    status, errors = run(project, predict("e_ups", "cache"))
    assert status == 1
    assert photo.name in only_error(errors)
    assert not list((project / "cache").glob("*.parquet"))


def test_an_error_of_both_processes_is_told_once(project):
    shutil.rmtree(project / "data" / "models" / "e_ups")
    status, errors = run(project, predict("e_ups", "cache"))
    assert status == 1
    assert "network.json: no readable network (no such file)" in only_error(errors)


def test_a_training_whose_processes_are_killed_goes_on_to_the_weights_of_one_that_was_not(project):
    change_params(  # all that could meet DDP
        project,
        train_e_ups__schedule={"iterations": 4, "warmup_iterations": 1},
        train_e_ups__memory={"checkpointed_stages": [1, 4]},
        train_e_ups__optimizer={"accumulated_batches": 2},
        runtime={"loader_workers": 1},
    )
    status, errors = run(project, train("whole"))
    assert status == 0, errors
    assert errors.count(" 0/8 [") == 1  # one bar begins

    stage = start(project, train("killed"))
    wait_for(lambda: list((project / "work" / "killed").rglob("last_checkpoint")), stage, "a checkpoint")
    os.kill(children(stage.pid)[1], signal.SIGKILL)
    _, errors = stage.communicate(timeout=PATIENCE_S)
    assert stage.returncode == 1
    assert "of 2 was killed by SIGKILL, and the others were ended" in only_error(errors)
    assert not (project / "killed").exists()

    stage = start(project, train("killed"))
    wait_for(lambda: len(children(stage.pid)) == 2, stage, "two processes")
    started = children(stage.pid)
    stage.kill()
    stage.communicate(timeout=120)  # their stderr as well, so this ends as they do
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    status, errors = run(project, train("killed"))
    assert status == 0, errors
    for name in ("weights.pth", "curves/plots/metrics/loss.tsv"):
        assert (project / "killed" / name).read_bytes() == (project / "whole" / name).read_bytes()
    assert not list((project / "work").rglob("*.pth"))
