"""What a cluster's processes run of one call of `map_images`, and what has to be the same there as here.

A call is known by its file, which lies in the folder in which the stage runs. The file holds the caller's versions and
what opens the work, which is too large to come with every chunk. Every machine has the folder at the same path.
"""

import asyncio
import hashlib
import os
import pickle
import platform
import re
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from antvisionps.core.errors import WorkersError

PACKAGE = Path(__file__).parents[1]

# Of each thread of this process: the call whose chunk it runs, and the call whose work it has open.
_running: dict[int, Path] = {}
_opened: dict[int, tuple[Path, Callable[[Any], Any]]] = {}
_ended: set[Path] = set()


@cache
def versions() -> Mapping[str, str]:
    """Of all that the bytes of a result can depend on. A process imports modules once, so they are read once."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    python = ".".join(platform.python_version_tuple()[:2])
    needed = [line for line in metadata.requires("antvisionps") or [] if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
    installed = {name: metadata.version(name) for name in names}
    return {"python": python, "antvisionps's source": digest.hexdigest()[:12], **installed}


def run_chunk(call: Path, items: bytes) -> bytes:
    """The pickled results and, where an item failed, what it raised after them. Raises nothing itself."""
    import cloudpickle

    results: list[Any] = []
    failure: Exception | None = None
    thread = threading.get_ident()
    _running[thread] = call
    try:
        for item in pickle.loads(items):
            if call in _ended:
                break
            results.append(_work_of(call, thread)(item))
    except Exception as error:  # noqa: BLE001  the caller raises it
        error.add_note(f"on {socket.gethostname()}:\n" + "".join(traceback.format_exception(error)))
        failure = error
    finally:
        del _running[thread]
    packed: bytes = cloudpickle.dumps((results, failure))
    return packed


async def end_call(call: Path) -> None:
    """Has this process's chunks of the call stop at their next item, waits for that, and closes what they opened.

    The stage may then remove or rename what its items wrote to.
    """
    _ended.add(call)
    while call in _running.values():
        await asyncio.sleep(0.01)
    for thread in [thread for thread, (opened_for, _) in _opened.items() if opened_for == call]:
        del _opened[thread]


def _work_of(call: Path, thread: int) -> Callable[[Any], Any]:
    """The opened work, in the call's folder. Each thread has its own: readers of files are not made for two."""
    try:
        os.chdir(call.parent)
        if thread in _opened and _opened[thread][0] == call:
            return _opened[thread][1]
        expected, pickled = pickle.loads(call.read_bytes())
    except FileNotFoundError as error:
        raise WorkersError(
            f"{socket.gethostname()}: expected the folder {call.parent} of the machine that runs the stage, got "
            f"no such file: {error.filename}; run on a file system that all machines have at the same path"
        ) from error
    refuse_other_versions(expected)
    _opened.pop(thread, None)
    _, work = _opened[thread] = call, pickle.loads(pickled)()
    return work


def refuse_other_versions(expected: Mapping[str, str]) -> None:
    """Raises WorkersError unless this process has those versions."""
    for name, version in expected.items():
        if (found := versions().get(name)) != version:
            raise WorkersError(
                f"{socket.gethostname()}: expected {name} {version}, which the stage runs with, got {found}; install "
                "the same there and restart the cluster's workers"
            )
