"""Stages that run in two real processes, started by themselves as torchrun does or by srun, interrupted and not."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.monitor.measure import measure
from antvisionps.models.training.weights import load_weights
from antvisionps.panoptic.splits import open_split
from tests.pipeline.workspace import PROJECT, bytes_below, change_params, fail, succeed

yaml = YAML(typ="safe", pure=True)

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
    runtime = {"launcher": "pytorch", "processes": 2, "checkpoint_interval": 1}
    change_params(tiny_run / "params.yaml", tmp_path / "params.yaml", runtime=runtime)
    return tmp_path


def start(project: Path, stage: str, **more: str) -> subprocess.Popen:
    name, *arguments = stage.split()
    command = [sys.executable, str(PROJECT / "stages" / f"{name}.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | more
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project, env=environment, **pipes)


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    printed, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)


def run(project: Path, stage: str, **more: str) -> subprocess.CompletedProcess:
    return finish(start(project, stage, **more))


PREDICT = "predict --end e_ups --split val --prepared data/prepared --models data/models/e_ups --out cache"


def train(out: str) -> str:
    return f"train_e_ups --member base --prepared data/prepared --work work/{out} --out {out}"


def wait_for(condition, running: subprocess.Popen, what: str) -> None:
    while not condition():
        assert running.poll() is None, f"ended before {what}"
        time.sleep(0.02)


def test_tasks_of_a_slurm_job_predict_the_bytes_of_one_process(project, tiny_run):
    (project / "bin").mkdir()
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (project / "bin" / name).write_text(text)
        (project / "bin" / name).chmod(0o755)
    # A batch script's own environment has a SLURM_PROCID too.
    job = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    params = project / "params.yaml"
    change_params(params, params, runtime={"launcher": "slurm", "processes": 1})
    path = f"{project}/bin{os.pathsep}{os.environ['PATH']}"
    assert succeed(run(project, PREDICT, PATH=path, **job)).stderr.count("process 1 of 2:   0%") == 1  # one bar begins
    files = bytes_below(project / "cache")
    assert files == bytes_below(tiny_run / "data" / "predictions" / "e_ups" / "val")
    assert {path.name for path in files} == {"instances.parquet", "semantic.parquet"}
    assert not list(project.glob(".failures-*"))


def test_an_error_of_one_process_or_of_both_is_told_once_and_ends_both(project):
    photo = project / "data" / "prepared" / "images" / "000001000002.png"
    photo.write_bytes(b"no photo")  # the second image of val is the second process's
    assert photo.name in fail(run(project, PREDICT))
    assert not list((project / "cache").glob("*.parquet"))
    shutil.rmtree(project / "data" / "models" / "e_ups")
    assert "network.json: no readable network (no such file)" in fail(run(project, PREDICT))


def test_a_training_whose_processes_are_killed_goes_on_to_the_weights_of_one_that_was_not(project):
    training = {  # all that could meet DDP
        "schedule": {"iterations": 4, "warmup_iterations": 1},
        "memory": {"checkpointed_stages": [1, 4]},
        "optimizer": {"accumulated_batches": 2},
        "evaluate_interval": 2,
        "ema_momentum": 0.5,
        "keep": "best",
    }
    params = project / "params.yaml"
    change_params(params, params, train_e_ups=training, runtime={"loader_workers": 1})
    assert succeed(run(project, train("whole"))).stderr.count(" 0/8 [") == 1  # one bar begins

    stage = start(project, train("killed"))
    wait_for(lambda: list((project / "work" / "killed").rglob("last_checkpoint")), stage, "a checkpoint")
    psutil.Process(stage.pid).children()[1].kill()
    assert "of 2 was killed by SIGKILL, and the others were stopped" in fail(finish(stage))
    assert not (project / "killed").exists()

    stage = start(project, train("killed"))
    wait_for(lambda: len(psutil.Process(stage.pid).children()) == 2, stage, "two processes")
    started = psutil.Process(stage.pid).children()
    stage.kill()
    finish(stage)  # their stderr as well, so this ends as they do
    assert not psutil.wait_procs(started, timeout=30)[1]

    succeed(run(project, train("killed")))
    assert bytes_below(project / "killed") == bytes_below(project / "whole")
    assert not list((project / "work").rglob("*.pth"))
    network = yaml.load(params)["train_e_ups"]["networks"]["base"]
    assert best_pq(project / "whole") == pytest.approx(measured_pq(project, "whole", network), abs=1e-9)


def best_pq(folder: Path) -> float:
    rows = (folder / "curves" / "plots" / "metrics" / "monitor" / "PQ.tsv").read_text().splitlines()[1:]
    return max(float(row.split("\t")[1]) for row in rows)


def measured_pq(project: Path, out: str, network: dict) -> float:
    """Of the kept weights on the monitor split, by one process."""
    monitor = open_split(project / "data" / "prepared", "monitor")
    classes = {"num_things": len(monitor.categories.things), "num_classes": len(monitor.categories)}
    model = build_e_ups(test_proposals=network["train_proposals"], **classes, **network)
    load_weights(project / out, model)
    return measure(model.eval(), monitor, short_sides_px=[64], max_long_side_px=96)["PQ"]
