"""Two processes of one stage, forked from the one that runs the tests, which has torch imported already."""

import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.utils.distributed import get_free_port


def fork(target: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def fork_two(target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Calls target in two processes that find in their environment what torchrun would give them, one thread each.
    Their exit statuses, negative where a signal stopped one."""
    port = get_free_port()
    processes = [fork(_as_rank, rank, port, target, arguments) for rank in (0, 1)]
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def _as_rank(rank: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.simplefilter("default")  # as in a program of its own, not pytest's
    target(*arguments)
