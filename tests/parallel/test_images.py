"""map_images in this process, on processes of this machine and on a Dask cluster."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import cv2
import pytest

from antvisionps.core.errors import CacheError, WorkersError
from antvisionps.parallel import images as parallel
from antvisionps.parallel.images import map_images, open_workers
from tests.programs import TEST_PACKAGES


@pytest.fixture(params=[1, 2, "dask"])
def workers(request):
    if request.param == "dask":
        with open_workers(workers=1, backend="dask", cluster=request.getfixturevalue("address")) as workers:
            yield workers
    else:
        yield request.param


several = pytest.mark.parametrize("workers", [2, "dask"], indirect=True)


def open_power(exponent):
    calls = []

    def power(number):
        calls.append(number)
        return number**exponent, os.getpid(), calls[0]

    return power


def open_failing():
    def fail_at_seven(number):
        if number == 7:
            raise CacheError("image 7 is missing")
        return number

    return fail_at_seven


def open_dying():
    def die_at_seven(number):
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return die_at_seven


def open_waiting(folder):
    """Marks each item; from the 41st on they wait for the gate."""

    def mark(number):
        while number > 40 and not (folder / "gate").exists():
            time.sleep(0.01)
        (folder / str(number)).touch()

    return mark


def powers(workers, *, exponent=3, items=range(5)):
    results = map_images(partial(open_power, exponent), items, workers=workers, description="power")
    return [power for power, _, _ in results]


def test_results_come_in_the_order_of_the_items(workers):
    assert powers(workers, exponent=2, items=range(100)) == [number**2 for number in range(100)]
    assert powers(workers, items=[]) == []


def test_one_worker_is_this_process():
    results = map_images(partial(open_power, 2), range(9), workers=1, description="")
    assert {process for _, process, _ in results} == {os.getpid()}


@several
def test_each_process_opens_its_work_once(workers):
    results = list(map_images(partial(open_power, 2), range(300), workers=workers, description=""))
    assert len({(process, first) for _, process, first in results}) == len({process for _, process, _ in results})
    assert os.getpid() not in {process for _, process, _ in results}


def test_an_error_comes_through_as_it_is_and_the_next_call_works(workers):
    with pytest.raises(CacheError, match="image 7 is missing"):
        list(map_images(open_failing, range(50), workers=workers, description=""))
    assert powers(workers)[-1] == 64


@several
def test_a_worker_that_dies_is_one_error_and_the_next_call_works(workers):
    died = "a worker process died, most likely for want of memory"
    lost = r"Dask cluster at tcp://127.* lost work: KilledWorker: .*; see its workers'"
    with pytest.raises(WorkersError, match=died if workers == 2 else lost):
        list(map_images(open_dying, range(50), workers=workers, description=""))
    assert powers(workers)[-1] == 64


def test_results_that_are_not_taken_stop_the_work_within_a_chunk(tmp_path, monkeypatch):
    shutdown = parallel.ProcessPoolExecutor.shutdown

    def open_gate_and_shut_down(pool, **arguments):
        (tmp_path / "gate").touch()
        shutdown(pool, **arguments)

    monkeypatch.setattr(parallel.ProcessPoolExecutor, "shutdown", open_gate_and_shut_down)
    results = map_images(partial(open_waiting, tmp_path), range(640), workers=2, description="")
    next(results)
    results.close()
    in_chunks_of_32_the_two_that_waited = 2
    assert len(list(tmp_path.iterdir())) <= 1 + 41 + in_chunks_of_32_the_two_that_waited


def open_threads():
    return lambda _: cv2.getNumThreads()


def test_processes_work_after_opencv_has_used_threads():
    """A forked process does not have them, and must not wait for them."""
    code = (
        "import time, cv2, numpy\n"
        "from tests.parallel.test_images import open_threads, map_images\n"
        "cv2.setNumThreads(4)\n"
        "for _ in range(3):\n"
        "    cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (31, 31), 5)\n"
        "time.sleep(1)  # until the threads wait\n"
        "print(*map_images(open_threads, [0, 1, 2, 3], workers=2, description=None), cv2.getNumThreads())\n"
    )
    environment = os.environ | {"PYTHONPATH": TEST_PACKAGES}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["1", "1", "1", "1", "4"]
