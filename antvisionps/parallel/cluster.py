"""The work of `map_images` on the processes of a Dask cluster.

A chunk of items is a task. The results are put in order here. However slowly they are taken, only a few chunks a
process are ahead of the one that is waited for, so what is held is bounded.
"""

from __future__ import annotations

import logging
import pickle
import signal
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antvisionps.core.errors import WorkersError
from antvisionps.parallel.cluster_worker import end_call, run_chunk, versions

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

ANSWER_TIMEOUT_S = 20.0
"""A cluster that does not answer within it, or has no worker, is not there."""

_CHUNKS_AHEAD = 4  # of each process
_LOOP_LOGGERS = ("tornado.application", "asyncio", "distributed")


@contextmanager
def open_cluster(address: str | None, *, workers: int) -> Iterator[Cluster]:
    """Yields the cluster at the address; without one, that of Dask's own configuration, else one of `workers`
    processes on this machine, which ends with the context.

    Raises WorkersError on a missing package and on a cluster that does not answer.
    """
    try:
        import cloudpickle  # noqa: F401
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise WorkersError(
            f"runtime.backend is dask, but {error.name} is not installed; pip install 'antvisionps[cluster]', or set "
            "the backend to processes"
        ) from error
    address = address or dask.config.get("scheduler-address", None)
    place = f"the Dask cluster at {address}" if address else "the local Dask cluster"
    with ExitStack() as stack:
        # What is on its way when a call fails finds its connection closed: Dask's loop would print tracebacks of that.
        for logger in map(logging.getLogger, _LOOP_LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        try:
            at = address or stack.enter_context(_start_local_cluster(workers))
            client = stack.enter_context(distributed.Client(at, timeout=ANSWER_TIMEOUT_S, set_as_default=False))
            client.wait_for_workers(1, timeout=ANSWER_TIMEOUT_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise WorkersError(
                f"{place}: expected a scheduler that answers within {ANSWER_TIMEOUT_S:g} s and has a worker, got: "
                f"{_one_line(error)}; start `dask scheduler` and `dask worker`, mend runtime.cluster, or set it to null"
            ) from error
        yield Cluster(place, client)


@dataclass(frozen=True)
class Cluster:
    """An open connection to a cluster, and its name for people. Not to be pickled."""

    place: str
    client: Client

    def processes(self) -> int:
        """How many chunks it works on at once."""
        return max(1, sum(self.client.nthreads().values()))

    def map_chunks(
        self, open_work: Callable[[], Callable[[Any], Any]], items: Sequence[Any], *, chunk: int
    ) -> Generator[Any, None, None]:
        """The results in the order of the items; each thread of a worker calls `open_work` once.

        What an item raises is raised here as it is, after the results before it; WorkersError if work is lost. At the
        end no worker is at the call any more.
        """
        import cloudpickle

        call = Path.cwd() / f".work-{uuid.uuid4().hex}.unfinished"
        ahead = _CHUNKS_AHEAD * self.processes()
        unsent = iter(range(0, len(items), chunk))
        pending: deque[Future] = deque()
        try:
            call.write_bytes(cloudpickle.dumps((versions(), cloudpickle.dumps(open_work))))
            while True:
                for start in islice(unsent, ahead - len(pending)):
                    packed = cloudpickle.dumps(items[start : start + chunk])
                    pending.append(self.client.submit(run_chunk, call, packed, pure=False))
                if not pending:
                    return
                results, failure = self._unpack(pending.popleft())
                yield from results
                if failure is not None:
                    raise failure
        finally:
            for future in pending:
                future.release()
            with suppress(TimeoutError, OSError):  # the cluster is lost, or an item takes long
                self.client.run(end_call, call, on_error="ignore", callback_timeout=ANSWER_TIMEOUT_S)
            call.unlink(missing_ok=True)

    def _unpack(self, future: Future) -> tuple[list[Any], Exception | None]:
        """What a chunk gave. A chunk raises nothing itself: whatever Dask raises becomes a WorkersError."""
        try:
            return pickle.loads(future.result())
        except Exception as error:
            raise WorkersError(
                f"{self.place} lost work: {type(error).__name__}: {_one_line(error)}; see its workers' logs (out of "
                "memory, or without this package?), and run the stage again"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _start_local_cluster(workers: int) -> LocalCluster:
    """Ctrl-C reaches all processes of a terminal; those that are started here leave it to this one."""
    import distributed

    resource_tracker.ensure_running()  # which unblocks interrupts as it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
