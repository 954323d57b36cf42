"""Python's garbage collector, where it costs more than it brings."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """While millions of small objects are made and none is garbage, looking for some takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def keep_until_exit() -> None:
    """What is alive now is looked through no more: as a process ends, which frees all anyway, Python does so several
    times, for a quarter of a second where a data set and a compiler are loaded."""
    gc.freeze()
