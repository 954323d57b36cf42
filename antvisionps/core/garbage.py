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
    """Takes all that is alive out of the collector's sight. Python collects several times while it exits, which takes a
    quarter of a second where a data set and compiled code are loaded, and frees nothing that would not go anyway."""
    gc.freeze()
