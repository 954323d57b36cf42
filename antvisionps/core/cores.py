"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Those that it is bound to; all of the machine on systems that do not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
