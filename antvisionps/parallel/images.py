"""Work on many images with several processes, whose number and place change the time and nothing else."""

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import cv2

from antvisionps.core.errors import WorkersError
from antvisionps.core.progress import progress

if TYPE_CHECKING:
    from antvisionps.parallel.cluster import Cluster

Workers: TypeAlias = "int | Cluster"
"""Processes of this machine, or those of a cluster."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNKS_PER_WORKER = 8
_MAX_CHUNK = 32  # the images of a row group of the cache, which a process then decodes alone

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 256 * 2**20

# A worker process serves one call of map_images, and keeps here how to open its work, what it opened and whether the
# call is over. It opens with its first item: an error while a pool starts would break the pool, one in an item comes
# through as it is.
_open_work: Callable[[], Callable[[Any], Any]]
_is_over: Event
_work: Callable[[Any], Any] | None = None


@contextmanager
def open_workers(*, workers: int, backend: str, cluster: str | None) -> Iterator[Workers]:
    """Yields what `map_images` takes: `workers` processes, or the cluster of another backend, which is left at the end.

    Raises WorkersError when the backend is not installed or its cluster does not answer.
    """
    if backend == "processes":
        yield workers
        return
    from antvisionps.parallel.cluster import open_cluster

    with open_cluster(cluster, workers=workers) as opened:
        yield opened


def map_images(
    open_work: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    *,
    workers: Workers,
    description: str | None,
    images_of_item: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Result]:
    """The results in the order of the items, with a progress bar, or without one where `description` is None.

    The bar counts images; an item is one, unless `images_of_item` says how many it stands for.

    `open_work` is called once in each process, to open files there, and returns what turns an item into a result; with
    one worker both run in this process. It has to be picklable: a function of a module, or a partial of one. Raises
    what an item raises, and WorkersError when processes are lost.
    """
    processes = workers if isinstance(workers, int) else workers.processes()
    images = [images_of_item(item) for item in items]
    chunk = max(1, min(_MAX_CHUNK // max([1, *images]), len(items) // (processes * _CHUNKS_PER_WORKER)))
    if isinstance(workers, int):
        results = _map_on_processes(open_work, items, processes=min(processes, -(-len(items) // chunk)), chunk=chunk)
    else:
        results = workers.map_chunks(partial(_open_on_cluster, open_work), items, chunk=chunk)
    with closing(results), progress(description=description, total=sum(images), unit="image") as bar:
        for result, of_item in zip(results, images, strict=True):
            bar.update(of_item)
            yield result


def _map_on_processes(
    open_work: Callable[[], Callable[[Any], Any]], items: Sequence[Any], *, processes: int, chunk: int
) -> Generator[Any, None, None]:
    with _opencv_in_one_thread():
        if processes <= 1:
            _keep_freed_memory()
            yield from map(open_work(), items)
        else:
            yield from _map_on_pool(open_work, items, processes=processes, chunk=chunk)


def _map_on_pool(
    open_work: Callable[[], Callable[[Any], Any]], items: Sequence[Any], *, processes: int, chunk: int
) -> Generator[Any, None, None]:
    is_over = multiprocessing.Event()
    with ProcessPoolExecutor(processes, initializer=_remember, initargs=(open_work, is_over)) as pool:
        try:
            yield from pool.map(_run, items, chunksize=chunk)
        except BrokenProcessPool as error:
            raise WorkersError(
                "a worker process died, most likely for want of memory; set runtime.workers lower and run again"
            ) from error
        finally:
            is_over.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _opencv_in_one_thread() -> Iterator[None]:
    """The processes are the parallelism. OpenCV's threads have to end before a process is forked: they are not in the
    child, which would wait for them for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _open_on_cluster(open_work: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    cv2.setNumThreads(1)
    _keep_freed_memory()
    return open_work()


def _remember(open_work: Callable[[], Callable[[Any], Any]], is_over: Event) -> None:
    global _open_work, _is_over
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # in a process that is not forked
    _keep_freed_memory()
    _open_work, _is_over = open_work, is_over


def _end_with_parent() -> None:
    """A pool whose process is killed would wait for work forever, and could still write where its successor does."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    parent.join()
    os._exit(1)


def _keep_freed_memory() -> None:
    """Has glibc keep up to 256 MiB of freed memory; elsewhere nothing happens.

    Every image allocates the same few megabytes again. By default glibc hands such blocks back to the kernel, and the
    page faults on fresh ones are a third of the time of fusing and half of that of scoring.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _KEPT_BYTES // 16)


def _run(item: Any) -> Any:
    """The item's result; None, which nobody takes, when after Ctrl-C or an error only the rest of a chunk is left."""
    global _work
    if _is_over.is_set():
        return None
    if _work is None:
        _work = _open_work()
    return _work(item)
