"""What several test files need: real data where there is some, and panopticapi's score as an oracle."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from panopticapi import evaluation

from antvisionps.cli import main as cli
from tests.dvc_project import commit, copy_project, make_repro
from tests.pipeline.workspace import UNION, Workspace, succeed, write_params
from tests.tiny_run import PROJECT, write_tiny_params

# All packages and tests are in memory at once: looking through them for garbage so often takes a twentieth of the time.
gc.set_threshold(20_000, 20, 50)
# Programs that tests start import what a user's would, without the folder of the tests' packages.
os.environ.pop("PYTHONPATH", None)
# Git and DVC commit in the tests' own repositories, on machines where nobody told git a name.
os.environ |= {f"GIT_{role}_{key}": "test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}

LONGEST_FIRST = (
    *("test_pipeline.py", "test_many_processes.py"),  # which make dvc_run and tiny_run, beside each other
    *("test_whole_batch.py", "test_loop.py", "test_table_1.py", "test_check.py"),  # need neither
    *("test_views.py", "test_page.py", "test_scales.py"),  # nor these, while dvc_run is still made
    *("test_documented_commands.py", "test_dvc_experiments.py", "test_mutations.py", "test_remote.py"),
    *("test_predictor.py", "test_determinism.py", "test_calibrate.py"),
)


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: a test often waits, for SLURM, a browser, or what another worker makes."""
    return 1 + len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that they are not what all other workers wait for at the end."""
    place_of = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place_of.get(item.path.name, len(place_of)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with `cmp_facade` and `coco_sample`: ANTVISIONPS_REAL_DATA, else ../shared/data. Skips without it."""
    folder = Path(os.environ.get("ANTVISIONPS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data; ANTVISIONPS_REAL_DATA names a folder with cmp_facade and coco_sample")
    return folder


@pytest.fixture
def refused(capsys):
    """Runs a command, which has to fail with one line of error, and returns that."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*map(str, arguments)])
        assert stopped.value.code == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        (line,) = (line for line in error.splitlines() if line.startswith("error: "))
        return line

    return run


@pytest.fixture
def panopticapi_pq(monkeypatch):
    """panopticapi's `pq_compute`, in this process: its pool of workers is never closed."""

    def in_this_process(matched, gt_folder, pred_folder, categories):
        return evaluation.pq_compute_single_core(0, matched, gt_folder, pred_folder, categories)

    monkeypatch.setattr(evaluation, "pq_compute_multi_core", in_this_process)
    return evaluation.pq_compute


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives a folder by its name, filled by a function. Workers of pytest-xdist share it: the first fills it."""
    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, is_whole = root / name, root / f"{name}.whole"
        with FileLock(root / f"{name}.lock"):
            if not is_whole.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                is_whole.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_run(made_once) -> Path:
    """A folder with the params.yaml, data/ and metrics/ of a whole tiny run. Tests only read it."""

    def run(folder: Path) -> None:
        write_tiny_params(folder / "params.yaml")
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "DVC_NO_ANALYTICS": "1"}
        command = [sys.executable, str(PROJECT / "tests" / "tiny_run.py")]
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    return made_once("tiny_run", run)


@pytest.fixture(scope="session")
def dvc_run(made_once) -> Path:
    """A copy of the project, committed to a repository of its own, whose DAG has run once. Tests only read it."""

    def run(folder: Path) -> None:
        copy_project(folder)
        make_repro(folder)
        commit(folder)

    return made_once("dvc_run", run)


@pytest.fixture(scope="session")
def done(made_once) -> Workspace:
    """Two ends' noisy predictions and what evaluate_heldout, calibrate, fuse and score make of them, all systems'.
    Tests only read it."""
    return Workspace(made_once("done", lambda folder: Workspace(folder).fill()))


@pytest.fixture(scope="session")
def auto(done, made_once) -> Path:
    """A folder with the `calibration` and `fused` maps of all systems by method auto, params.yaml and what calibrate
    printed."""

    def fill(folder: Path) -> None:
        params = write_params(folder / "params.yaml", method="auto")
        ran = succeed(done.run("calibrate", params=params, out=folder / "calibration"))
        (folder / "calibrate.txt").write_text(ran.stdout)
        places = {"params": params, "calibration": folder / "calibration"}
        succeed(done.run("fuse", **places, out=folder / "fused"))

    return made_once("auto", fill)


@pytest.fixture(scope="session", params=["heuristic", "panoptic_head"])
def union(request, done, made_once) -> Path:
    """A folder with `fused`, the fusion of all ends' instances, by each method, and its params.yaml."""

    def fuse(folder: Path) -> None:
        params = write_params(folder / "params.yaml", systems=["fusion"], **UNION, methods={"fusion": request.param})
        succeed(done.run("fuse", params=params, out=folder / "fused"))

    return made_once(f"union_{request.param}", fuse)
