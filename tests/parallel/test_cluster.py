"""map_images, and the stages after predict, on a real Dask cluster of two processes of this machine."""

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from antvisionps.core.errors import WorkersError
from antvisionps.parallel import cluster
from antvisionps.parallel.cluster_worker import PACKAGE, refuse_other_versions, run_chunk, versions
from antvisionps.parallel.images import map_images, open_workers
from antvisionps.params.whole import load_params
from antvisionps.pipeline.calibrate import calibrate_systems
from antvisionps.pipeline.evaluate_heldout import evaluate_heldout
from antvisionps.pipeline.fuse import fuse_systems
from antvisionps.pipeline.score import score
from tests.parallel.test_images import open_power
from tests.pipeline.workspace import STAGES, bytes_below

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def workers(address):
    with open_workers(workers=1, backend="dask", cluster=address) as workers:
        yield workers


class Marking:
    """Marks its items in a folder and, when it goes, that it is closed."""

    def __init__(self, folder):
        self.folder = folder
        (folder / f"opened-{os.getpid()}").touch()

    def __call__(self, number):
        (self.folder / str(number)).touch()
        return number

    def __del__(self):
        (self.folder / f"closed-{os.getpid()}").touch()


def open_folder():
    return lambda _: os.getcwd()


def test_the_workers_stand_in_the_folder_of_the_stage_and_leave_nothing_there(workers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(map_images(open_folder, range(4), workers=workers, description="")) == {str(tmp_path)}
    assert list(tmp_path.iterdir()) == []


def test_workers_run_no_further_ahead_than_a_few_chunks_and_close_what_they_opened(workers, tmp_path):
    items = range(640)
    results = map_images(partial(Marking, tmp_path), items, workers=workers, description="")
    first = [next(results)]
    time.sleep(1)
    in_chunks_of_32 = 32 * (1 + 4 * 2)
    assert len(list(tmp_path.glob("[0-9]*"))) <= in_chunks_of_32 < len(items)
    assert first + list(results) == list(items)
    assert len(list(tmp_path.glob("closed-*"))) == len(list(tmp_path.glob("opened-*"))) == 2


def test_results_that_are_not_taken_stop_the_work(workers, tmp_path):
    results = map_images(partial(Marking, tmp_path), range(640), workers=workers, description="")
    next(results)
    results.close()
    done = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == done < 640


def test_workers_of_other_versions_are_refused(workers, monkeypatch):
    monkeypatch.setattr(cluster, "versions", lambda: versions() | {"numpy": "1.0"})
    with pytest.raises(WorkersError, match=r"expected numpy 1\.0, which the stage runs with, got \d.*restart"):
        list(map_images(partial(open_power, 2), range(9), workers=workers, description=""))


def test_versions_are_of_the_whole_source_and_of_what_the_base_install_needs(tmp_path, monkeypatch):
    needed = {"python", "antvisionps's source", "numpy", "pyarrow", "opencv-python-headless", "numba"}
    assert needed <= set(versions())
    assert "torch" not in versions()
    with pytest.raises(WorkersError, match="expected polars 1, which the stage runs with, got None"):
        refuse_other_versions({"polars": "1"})
    assert PACKAGE == PROJECT / "antvisionps"
    module = tmp_path / "fusion" / "heuristic.py"
    module.parent.mkdir()
    monkeypatch.setattr("antvisionps.parallel.cluster_worker.PACKAGE", tmp_path)
    sources = set()
    for text in ("old", "new"):
        module.write_text(text)
        sources.add(versions.__wrapped__()["antvisionps's source"])
    assert len(sources) == 2


@pytest.mark.parametrize("missing", ["folder", "file"])
def test_a_file_system_that_is_not_shared_is_one_error(missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project" if missing == "folder" else tmp_path
    results, failure = pickle.loads(run_chunk(folder / "call", pickle.dumps([1])))
    assert results == []
    assert isinstance(failure, WorkersError)
    assert f"expected the folder {folder} of the machine that runs the stage" in str(failure)


def test_a_cluster_that_does_not_answer_is_one_error(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT_S", 0.3)
    with (
        pytest.raises(WorkersError, match=r"Dask cluster at tcp://127\.0\.0\.1:1: expected .*; start `dask scheduler`"),
        open_workers(workers=1, backend="dask", cluster="tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize("module", ["distributed", "cloudpickle"])
def test_a_missing_package_is_one_error_for_dask_alone(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with open_workers(workers=3, backend="processes", cluster=None) as workers:
        assert workers == 3
    line = rf"runtime.backend is dask, but {module} is not installed; pip install 'antvisionps\[cluster\]', or"
    with pytest.raises(WorkersError, match=line), open_workers(workers=1, backend="dask", cluster=None):
        pass


SLOW = """
import sys, time
from pathlib import Path
from antvisionps.parallel.images import map_images, open_workers
from antvisionps.core.stage import run_stage

def open_slow():
    def slow(number):
        Path(sys.argv[1], str(number)).touch()
        time.sleep(0.1)
    return slow

def main():
    with open_workers(workers=2, backend="dask", cluster=None) as workers:
        list(map_images(open_slow, range(6000), workers=workers, description="slow"))

if __name__ == "__main__":
    run_stage(main)
"""
"""Starts a cluster of its own, whose processes get the work of a script from it."""


@pytest.mark.parametrize(("end", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_processes_of_a_local_cluster_end_with_the_stage(end, status, tmp_path):
    script, marks = tmp_path / "slow.py", tmp_path / "marks"
    script.write_text(SLOW)
    marks.mkdir()
    command = [sys.executable, str(script), str(marks)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    slow = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    while slow.poll() is None and not any(marks.iterdir()):
        time.sleep(0.02)
    if end == signal.SIGINT:
        os.killpg(slow.pid, end)  # as a terminal does
    else:
        slow.kill()
    _, stderr = slow.communicate(timeout=60)  # its workers hold the pipes too: they end with it
    assert slow.returncode == status, stderr
    if end == signal.SIGINT:
        assert stderr.splitlines()[-1] == "interrupted"
        assert "Traceback" not in stderr


CALLS = {"evaluate_heldout": evaluate_heldout, "calibrate": calibrate_systems, "fuse": fuse_systems, "score": score}


@pytest.mark.parametrize("stage", CALLS)
def test_a_stage_writes_the_same_bytes_on_the_cluster(stage, done, address, tmp_path):
    own = load_params(done.params)
    runtime = own.runtime.model_copy(update={"backend": "dask", "cluster": address})
    out, *inputs = STAGES[stage]
    places = {name: done.root / name for name in inputs if name in CALLS[stage].__annotations__}
    if stage == "score":
        places["scores"] = tmp_path / "scores"
    systems = ("fusion",) if stage == "calibrate" else own.fuse.systems  # of one, which takes half as long as of three
    params = own.model_copy(update={"runtime": runtime, "fuse": own.fuse.model_copy(update={"systems": systems})})
    CALLS[stage](params, **places, out=tmp_path / out)
    for folder in tmp_path.iterdir():
        expected = bytes_below(done.root / folder.name)
        if stage == "calibrate":
            expected = {path: data for path, data in expected.items() if path.stem in systems}
        assert bytes_below(folder) == expected != {}
