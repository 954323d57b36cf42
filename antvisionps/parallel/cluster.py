"""The work of `map_images` on the processes of a cluster, through joblib's backends for Dask and Ray.

A chunk of items is a task. Results are put in order here, and no more than some chunks a process are ahead of the one
that is waited for, however slowly results are taken: what is held is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import WorkersError
from antvisionps.parallel.cluster_worker import Call, end_call, run_chunk, versions

if TYPE_CHECKING:
    from distributed import Client

ANSWER_TIMEOUT_S = 20.0
"""A cluster that does not answer within it, or has no worker, is not there."""

_CHUNKS_AHEAD = 4  # of each process; joblib hands two of them out at once


@contextmanager
def open_cluster(backend: str, *, address: str | None, workers: int) -> Iterator[Cluster]:
    """Yields the cluster at the address; without one, that of the backend's own environment variable, else one of
    `workers` processes on this machine, which ends with the context.

    Raises WorkersError on a missing package and on a cluster that does not answer.
    """
    with {"dask": _open_dask, "ray": _open_ray}[backend](address, workers) as cluster:
        yield cluster


@dataclass(frozen=True)
class Cluster(ABC):
    """A connection that is open. Not to be pickled."""

    place: str
    """For people."""

    return_as: ClassVar[str]
    """How joblib hands results out: a backend of its Pool's kind cannot have them streamed."""

    @abstractmethod
    def joblib_config(self) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def end(self, call: Call) -> None:
        """Returns when no process of the cluster works on the call any more, or has its files open."""

    def processes(self) -> int:
        """How many chunks it works on at once."""
        import joblib

        with self.joblib_config():
            return int(joblib.effective_n_jobs(-1))

    def map_chunks(
        self, open_work: Callable[[], Callable[[Any], Any]], items: Sequence[Any], *, chunk: int
    ) -> Generator[Any, None, None]:
        """The results in the order of the items; each thread of a worker calls `open_work` once.

        What an item raises is raised here as it is, after the results before it; WorkersError if work is lost.
        """
        import cloudpickle
        import joblib

        call = Call(Path.cwd(), f"work-{uuid.uuid4().hex}")
        starts = range(0, len(items), chunk)
        unsent = iter(starts)
        sent = received = 0
        with self.joblib_config():
            ahead = _CHUNKS_AHEAD * int(joblib.effective_n_jobs(-1))
            parallel = joblib.Parallel(n_jobs=-1, batch_size=1, return_as=self.return_as)

        def tasks() -> Iterator[Any]:  # joblib takes them one at a time, in whatever thread
            nonlocal sent
            while sent - received < ahead and (start := next(unsent, None)) is not None:
                sent += 1
                yield joblib.delayed(run_chunk)(call, cloudpickle.dumps(items[start : start + chunk]))

        with self._shared(call, cloudpickle.dumps((versions(), cloudpickle.dumps(open_work)))), parallel:
            while received < len(starts):
                with contextlib.closing(self._results(parallel, tasks())) as chunks:
                    for results, failure in chunks:
                        received += 1
                        yield from results
                        if failure is not None:
                            raise failure

    @contextmanager
    def _shared(self, call: Call, content: bytes) -> Iterator[None]:
        """Has the call's file for the workers to read; at the end no worker is at the call any more."""
        with atomic_file(call.file) as unfinished:
            unfinished.write_bytes(content)
        try:
            yield
        finally:
            self.end(call)
            call.file.unlink(missing_ok=True)

    def _results(
        self, parallel: Any, tasks: Iterator[Any]
    ) -> Generator[tuple[list[Any], Exception | None], None, None]:
        """What chunk after chunk gave; whatever joblib or the backend raises becomes a WorkersError."""
        try:
            packed_results = parallel(tasks)
            for packed in packed_results:
                yield pickle.loads(packed)
        except GeneratorExit:
            if isinstance(packed_results, Generator):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # joblib's, that work was for nothing
                    packed_results.close()
            raise
        except Exception as error:
            raise WorkersError(
                f"{self.place} lost work: {type(error).__name__}: {_one_line(error)}; see its workers' logs (out of "
                "memory, or without this package?), and run the stage again"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@dataclass(frozen=True)
class DaskCluster(Cluster):
    client: Client
    return_as: ClassVar[str] = "generator"

    def joblib_config(self) -> AbstractContextManager[Any]:
        import joblib

        from antvisionps.parallel.dask_backend import AttentiveDaskBackend

        return joblib.parallel_config(backend=AttentiveDaskBackend(client=self.client))

    def end(self, call: Call) -> None:
        with contextlib.suppress(TimeoutError, OSError):  # it is lost, or an item takes long
            self.client.run(end_call, call.name, on_error="ignore", callback_timeout=ANSWER_TIMEOUT_S)


@dataclass(frozen=True)
class RayCluster(Cluster):
    """Its processes end with each call of `map_images`."""

    return_as: ClassVar[str] = "list"

    def joblib_config(self) -> AbstractContextManager[Any]:
        import joblib

        return joblib.parallel_config(backend="ray", n_jobs=-1)

    def end(self, call: Call) -> None:
        pass


@contextmanager
def _open_dask(address: str | None, workers: int) -> Iterator[DaskCluster]:
    with _missing_package_named("dask"):
        import cloudpickle  # noqa: F401
        import dask
        import distributed
        import joblib  # noqa: F401
    address = address or dask.config.get("scheduler-address", None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unlogged(*_LOOP_LOGGERS))
        place = f"the Dask cluster at {address}" if address else "the local Dask cluster"
        try:
            at = address or stack.enter_context(_local_dask(workers))
            client = stack.enter_context(distributed.Client(at, timeout=ANSWER_TIMEOUT_S, set_as_default=False))
            client.wait_for_workers(1, timeout=ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise WorkersError(
                f"{place}: expected a scheduler that answers within {ANSWER_TIMEOUT_S:g} s and has a worker, got: "
                f"{_one_line(error)}; start `dask scheduler` and `dask worker`, mend runtime.cluster, or set it to null"
            ) from error
        yield DaskCluster(place, client)


_LOOP_LOGGERS = ("tornado.application", "asyncio", "distributed")


@contextmanager
def _unlogged(*names: str) -> Iterator[None]:
    """What is on its way when a call ends with an error finds its connection closed, and the loop in the background
    would print that, with a traceback, beside the one line of the error."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _local_dask(workers: int) -> Iterator[Any]:
    import distributed

    with _interrupts_blocked():
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    with cluster:
        yield cluster


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; those that are started here leave it to this one."""
    resource_tracker.ensure_running()  # which unblocks them as it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _open_ray(address: str | None, workers: int) -> Iterator[RayCluster]:
    with _missing_package_named("ray"):
        import cloudpickle  # noqa: F401
        import joblib  # noqa: F401
        import ray
        from ray.util.joblib import register_ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing here reports home
    address = address or os.environ.get("RAY_ADDRESS")
    place = f"the Ray cluster at {address}" if address else "the local Ray cluster"
    size = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, **size)
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkersError(
            f"{place}: expected one that answers, got: {_one_line(error)}; start `ray start --head`, mend "
            "runtime.cluster, or set it to null"
        ) from error
    register_ray()
    try:
        yield RayCluster(place)
    finally:
        ray.shutdown()


@contextmanager
def _missing_package_named(backend: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        packages = "'antvisionps[cluster]'" + (" ray" if backend == "ray" else "")
        raise WorkersError(
            f"runtime.backend is {backend}, but {error.name} is not installed; pip install {packages}, or set the "
            "backend to processes"
        ) from error
