"""Work on many images with several processes, whose number changes the time and nothing else."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from antvisionps.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNKS_PER_WORKER = 8
_MAX_CHUNK = 32  # the images of a row group of the cache, which a process then decodes alone

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 256 * 2**20

# A worker process serves one call of map_images, and keeps here how to open its work and what it opened. It opens with
# its first item: an error while a pool starts would break the pool, one in an item comes through as it is.
_open_work: Callable[[], Callable[[Any], Any]]
_work: Callable[[Any], Any] | None = None


def map_images(
    open_work: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, workers: int, description: str
) -> Iterator[Result]:
    """The results in the order of the items, with a progress bar on a terminal.

    `open_work` is called once in each process, to open files there, and returns what turns an item into a result; with
    one worker both run in this process. It has to be picklable: a function of a module, or a partial of one.
    """
    chunk = max(1, min(_MAX_CHUNK, len(items) // (workers * _CHUNKS_PER_WORKER)))
    processes = min(workers, -(-len(items) // chunk))
    if processes <= 1:
        _keep_freed_memory()
        yield from _progress(map(open_work(), items), len(items), description)
        return
    with ProcessPoolExecutor(processes, initializer=_remember, initargs=(open_work,)) as pool:
        try:
            results: Iterator[Result] = pool.map(_run, items, chunksize=chunk)
            yield from _progress(results, len(items), description)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _progress(results: Iterator[Result], total: int, description: str) -> Iterator[Result]:
    yield from progress(results, description=description, total=total, unit="image")


def _remember(open_work: Callable[[], Callable[[Any], Any]]) -> None:
    global _open_work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_freed_memory()
    _open_work = open_work


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
    global _work
    if _work is None:
        _work = _open_work()
    return _work(item)
