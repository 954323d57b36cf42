"""What starting several processes asks of the machine, and what it says where that is missing."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.device import get_device

from antvisionps.core.errors import LaunchError
from antvisionps.models.training import launching
from antvisionps.models.training.device import select_device
from antvisionps.models.training.processes import exit_with_parent, stage_processes
from tests.forks import fork, fork_two


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Nothing of a job; and what a start sets is taken back."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCH_CPP_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("launcher", ["none", "pytorch", "slurm"])
def test_one_process_starts_and_joins_nothing(launcher, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    with stage_processes(launcher=launcher, processes=1, device="cpu", cpu_threads=3) as device:
        assert device == torch.device("cpu")
        assert torch.get_num_threads() == 3  # whatever OMP_NUM_THREADS says
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.distributed.is_initialized()


def start(launcher: str, processes: int, device: str = "cpu") -> None:
    with stage_processes(launcher=launcher, processes=processes, device=device, cpu_threads=1):
        pytest.fail("it has to be refused")


def test_slurm_outside_of_a_job_says_where_to_run():
    with pytest.raises(LaunchError, match=r"SLURM_NTASKS is not set; run `dvc repro` in a job that asks for .* tasks"):
        start("slurm", 1)


def test_slurm_without_srun_names_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError, match=r"no srun on the PATH; .* set runtime\.launcher to pytorch or none"):
        start("slurm", 1)
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(LaunchError, match=r"runtime\.processes is 8, but torch sees 4 GPUs here"):
        start("pytorch", 8, device="auto")


def watch(mark: Path) -> None:
    exit_with_parent(os.getppid())
    time.sleep(0.6)  # it looks every half second
    mark.touch()
    exit_with_parent(os.getppid() + 1)
    time.sleep(60)


def test_a_process_whose_parent_was_gone_before_it_looked_exits_at_once_and_another_goes_on(tmp_path):
    mark = tmp_path / "goes on"
    process = fork(watch, mark)
    process.join(30)
    assert (process.exitcode, mark.exists()) == (1, True)


def lose_the_second() -> None:
    with stage_processes(launcher="pytorch", processes=2, device="cpu", cpu_threads=1):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        torch.distributed.all_reduce(torch.ones(1))


def test_a_process_that_loses_another_is_not_taken_for_the_cause(monkeypatch, tmp_path, capsys):
    """SLURM may tell no more of a task that was killed than that it stopped the others, by SIGTERM."""

    def lose_one() -> list[int]:
        assert fork_two(lose_the_second) == [1, -signal.SIGKILL]
        return [-signal.SIGTERM]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "_srun", lose_one)
    with pytest.raises(LaunchError, match=r"the 2 processes lost one another .*Connection (closed|reset) by peer"):
        launching.launch("slurm", 2)
    assert "Traceback" not in capsys.readouterr().err


def test_of_the_errors_of_several_processes_the_first_is_told(monkeypatch, tmp_path):
    def fail_both():
        for rank, second in ((0, 2.0), (1, 1.0)):
            report = {"time": second, "lost": False, "ours": True, "text": f"error of {rank}"}
            Path(os.environ[launching.FAILURES], f"{rank}.json").write_text(json.dumps(report))
        return [1, 1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "_srun", fail_both)
    with pytest.raises(LaunchError, match=r"^error of 1$"):
        launching.launch("slurm", 2)


@pytest.mark.parametrize("seen", ["cuda", "mps"])
def test_mmengine_trains_on_the_device_that_is_chosen(monkeypatch, seen):
    monkeypatch.setattr("mmengine.device.utils.DEVICE", seen)
    assert select_device("cpu", cpu_threads=1).type == get_device() == "cpu"


def test_cores_are_shared_on_systems_that_do_not_tell_which_a_process_may_use(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delenv("OMP_NUM_THREADS")
    launching._share_cores(1)
    assert os.environ["OMP_NUM_THREADS"] == str(os.cpu_count())
