"""map_images, and the stages after predict, on a real Dask cluster of two processes of this machine."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import types
from functools import partial
from pathlib import Path

import joblib
import pytest
from joblib._parallel_backends import ThreadingBackend
from ruamel.yaml import YAML

from antvisionps.core.errors import CacheError, WorkersError
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.parallel import cluster
from antvisionps.parallel.cluster_worker import Call, refuse_other_versions, run_chunk, versions
from antvisionps.parallel.images import map_images, open_workers
from antvisionps.predictions.schema import SEMANTIC_FILE
from tests.parallel.test_images import open_dying, open_failing, open_power
from tests.pipeline.workspace import Workspace, bytes_below, fail, succeed, write_caches, write_params

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the cluster, whose processes run in a folder of their own."""
    command = [sys.executable, str(PROJECT / "tests" / "local_dask.py")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running.stdout.readline().strip()
        running.communicate()


@pytest.fixture
def dask(address):
    with open_workers(workers=1, backend="dask", cluster=address) as workers:
        yield workers


def open_marking(folder):
    def mark(number):
        (folder / str(number)).touch()
        return number

    return mark


def open_folder():
    return lambda _: os.getcwd()


def test_results_come_in_the_order_of_the_items_from_two_processes_that_open_their_work_once(dask):
    results = list(map_images(partial(open_power, 2), range(300), workers=dask, description="square"))
    assert [square for square, _, _ in results] == [number**2 for number in range(300)]
    assert len({process for _, process, _ in results} - {os.getpid()}) == 2
    assert len({(process, first) for _, process, first in results}) == 2


def test_nothing_to_do_gives_nothing(dask):
    assert list(map_images(partial(open_power, 2), [], workers=dask, description="")) == []


def test_the_workers_stand_in_the_folder_of_the_stage_and_leave_nothing_there(dask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(map_images(open_folder, range(4), workers=dask, description="")) == {str(tmp_path)}
    assert list(tmp_path.iterdir()) == []


def test_an_error_comes_through_as_it_is_and_the_cluster_works_on(dask):
    taken = []
    with pytest.raises(CacheError, match="image 7 is missing"):
        taken.extend(map_images(open_failing, range(50), workers=dask, description=""))
    assert list(map_images(partial(open_power, 3), range(5), workers=dask, description=""))[-1][0] == 64


def test_workers_run_no_further_ahead_than_a_few_chunks(dask, tmp_path):
    items = range(640)
    results = map_images(partial(open_marking, tmp_path), items, workers=dask, description="")
    first = [next(results)]
    time.sleep(1)
    in_chunks_of_32 = 32 * (1 + 4 * 2)
    assert len(list(tmp_path.iterdir())) <= in_chunks_of_32 < len(items)
    assert first + list(results) == list(items)


def test_results_that_are_not_taken_stop_the_work(dask, tmp_path):
    results = map_images(partial(open_marking, tmp_path), range(640), workers=dask, description="")
    next(results)
    results.close()
    done = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == done < 640


def test_a_worker_that_dies_is_one_error_and_the_cluster_works_on(dask):
    with pytest.raises(
        WorkersError, match=r"Dask cluster at tcp://127.* lost work: KilledWorker: .*; see its workers'"
    ):
        list(map_images(open_dying, range(50), workers=dask, description=""))
    assert len(list(map_images(partial(open_power, 3), range(5), workers=dask, description=""))) == 5


def test_workers_of_other_versions_are_refused(dask, monkeypatch):
    monkeypatch.setattr(cluster, "versions", lambda: versions() | {"numpy": "1.0"})
    with pytest.raises(WorkersError, match=r"expected numpy 1\.0, which the stage runs with, got \d.*restart"):
        list(map_images(partial(open_power, 2), range(9), workers=dask, description=""))


def test_versions_are_of_the_source_and_of_what_the_base_install_needs():
    needed = {"python", "antvisionps's source", "numpy", "pyarrow", "opencv-python-headless", "numba"}
    assert needed <= set(versions())
    assert "torch" not in versions()
    refuse_other_versions(versions())
    with pytest.raises(WorkersError, match="expected polars 1, which the stage runs with, got None"):
        refuse_other_versions({"polars": "1"})


@pytest.mark.parametrize("missing", ["folder", "file"])
def test_a_file_system_that_is_not_shared_is_one_error(missing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project" if missing == "folder" else tmp_path
    results, failure = pickle.loads(run_chunk(Call(folder, "work"), pickle.dumps([1])))
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


@pytest.mark.parametrize(
    ("backend", "module", "remedy"),
    [
        ("dask", "distributed", r"pip install 'antvisionps\[cluster\]', or"),
        ("dask", "joblib", r"pip install 'antvisionps\[cluster\]', or"),
        ("ray", "ray", r"pip install 'antvisionps\[cluster\]' ray, or"),
    ],
)
def test_a_missing_package_is_one_error(backend, module, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(WorkersError, match=f"runtime.backend is {backend}, but {module} is not installed; {remedy}"),
        open_workers(workers=1, backend=backend, cluster=None),
    ):
        pass


SLOW = """
import sys, time
from pathlib import Path
from antvisionps.parallel.images import map_images, open_workers
from antvisionps.predictions.schema import SEMANTIC_FILE
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
    slow = subprocess.Popen(
        [sys.executable, str(script), str(marks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        start_new_session=True,
    )
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


class RayBackend(ThreadingBackend):
    """Streams no results, as Ray's."""

    supports_return_generator = False


@pytest.fixture
def fake_ray(monkeypatch):
    """Modules in Ray's place, whose processes are threads; the fixture is what `ray.init` was called with."""
    called = {}
    ray, util, ray_joblib = (types.ModuleType(name) for name in ("ray", "ray.util", "ray.util.joblib"))
    ray.init, ray.shutdown, ray.util, util.joblib = called.update, called.clear, util, ray_joblib
    ray_joblib.register_ray = lambda: joblib.register_parallel_backend("ray", partial(RayBackend))
    for module in (ray, util, ray_joblib):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(RayBackend, "effective_n_jobs", lambda _, n_jobs: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield called
    joblib.parallel.BACKENDS.pop("ray", None)


def test_ray_gives_the_same_results_in_order(fake_ray):
    with open_workers(workers=3, backend="ray", cluster=None) as ray:
        assert fake_ray["num_cpus"] == 3
        results = list(map_images(partial(open_power, 2), range(700), workers=ray, description=""))
        with pytest.raises(CacheError, match="image 7 is missing"):
            list(map_images(open_failing, range(50), workers=ray, description=""))
    assert [square for square, _, _ in results] == [number**2 for number in range(700)]
    assert fake_ray == {}


def test_ray_joins_the_cluster_at_the_address(fake_ray):
    with open_workers(workers=3, backend="ray", cluster="10.0.0.1:6379"):
        assert fake_ray == {"address": "10.0.0.1:6379", "log_to_driver": False}


def test_a_ray_cluster_that_does_not_answer_is_one_error(fake_ray, monkeypatch):
    def refuse(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(sys.modules["ray"], "init", refuse)
    with (
        pytest.raises(
            WorkersError, match=r"the Ray cluster at auto: expected .*, got: Could not find any .*start `ray"
        ),
        open_workers(workers=3, backend="ray", cluster="auto"),
    ):
        pass


@pytest.fixture(scope="module")
def space(tmp_path_factory, address):
    """A workspace with two files of params, after evaluate_heldout and fuse on processes of this machine."""
    space = Workspace(tmp_path_factory.mktemp("space"))
    sizes = {"train_images": 10, "val_images": 40, "heldout_images": 6, "height": 64, "width": 96}
    prepare_scenes(space.prepared, **sizes, seed=3, workers=1)
    write_caches(space.prepared, space.predictions)
    write_params(space.params, workers=2, systems=["fusion"])
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(space.params)
    document["runtime"] |= {"backend": "dask", "cluster": address}
    yaml.dump(document, space.root / "dask.yaml")
    succeed(space.run("evaluate_heldout"))
    succeed(space.run("fuse", "--system", "fusion", out=space.fused / "fusion"))
    return space


def written(space, params, out, *command):
    """What the stage leaves in the folder `out`."""
    places = {"params": params, "out": out / "written"} | (
        {"overlays": out / "overlays"} if command[0] == "score" else {}
    )
    succeed(space.run(*command, **places))
    return bytes_below(out)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate_heldout"],
        ["fuse", "--system", "fusion"],
        ["calibrate", "--system", "fusion"],
        ["score"],
        ["error_budget"],
    ],
    ids=lambda command: command[0],
)
def test_a_stage_writes_the_same_bytes_on_the_cluster(space, tmp_path, command):
    on_processes = written(space, space.params, tmp_path / "processes", *command)
    on_cluster = written(space, space.root / "dask.yaml", tmp_path / "dask", *command)
    assert on_cluster == on_processes != {}


def test_a_broken_cache_is_one_line_and_leaves_nothing(space, tmp_path):
    predictions = shutil.copytree(space.predictions, tmp_path / "predictions")
    cache = predictions / "e_ups" / "val" / SEMANTIC_FILE
    cache.write_bytes(cache.read_bytes()[:-100])
    out = tmp_path / "out" / "fusion"
    places = {"params": space.root / "dask.yaml", "predictions": predictions, "out": out}
    line = fail(space.run("fuse", "--system", "fusion", **places))
    assert str(cache) in line
    assert "not a whole Parquet file" in line
    assert list(out.parent.iterdir()) == []
