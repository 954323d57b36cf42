"""What a cluster's processes run of one call of `map_images`, and what has to be the same there as here.

Bytes travel: the items of a chunk come pickled, and their results go back so. What opens the work is too large to come
with every chunk; it lies in a file of the folder in which the stage runs, which every machine has at the same path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import platform
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from antvisionps.core.errors import WorkersError

SECONDS_BETWEEN_LOOKS = 0.01

# Of each thread of this process: the call whose chunk it runs, and the call whose work it has open.
_running: dict[int, str] = {}
_opened: dict[int, tuple[str, Callable[[Any], Any]]] = {}
_ended: set[str] = set()


@dataclass(frozen=True)
class Call:
    """One call of `map_images`: the folder in which the stage runs, and a name that no other call has."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        """Holds, while the call runs, what opens its work and the caller's versions."""
        return self.folder / f".{self.name}.unfinished"


@cache
def versions() -> Mapping[str, str]:
    """Of all that the bytes of a result can depend on. A process imports modules once, so it is asked once."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "antvisionps's source": _source()}
    for line in metadata.requires("antvisionps") or []:
        if "extra ==" not in line:
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            found[name] = metadata.version(name)
    return found


def _source() -> str:
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def run_chunk(call: Call, items: bytes) -> bytes:
    """The pickled results and, where an item failed, what it raised after them. Raises nothing itself."""
    import cloudpickle

    results: list[Any] = []
    failure: Exception | None = None
    with _running_now(call):
        try:
            work = _work_of(call)
            for item in pickle.loads(items):
                if call.name in _ended:
                    break
                results.append(work(item))
        except Exception as error:  # noqa: BLE001  the caller raises it
            error.add_note(f"on {socket.gethostname()}:\n" + "".join(traceback.format_exception(error)))
            failure = error
    packed: bytes = cloudpickle.dumps((results, failure))
    return packed


async def end_call(name: str) -> None:
    """Closes what this process has open for the call, once its chunks there are over, which it hastens."""
    _ended.add(name)
    while name in _running.values():
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    for thread, (opened_for, _) in list(_opened.items()):
        if opened_for == name:
            del _opened[thread]


@contextmanager
def _running_now(call: Call) -> Iterator[None]:
    thread = threading.get_ident()
    _running[thread] = call.name
    try:
        yield
    finally:
        del _running[thread]


def _work_of(call: Call) -> Callable[[Any], Any]:
    """The opened work, in the call's folder. Each thread has its own: readers of files are not made for two."""
    thread = threading.get_ident()
    try:
        os.chdir(call.folder)
        opened_for, work = _opened.get(thread, ("", None))
        if opened_for == call.name and work is not None:
            return work
        expected, pickled = pickle.loads(call.file.read_bytes())
    except FileNotFoundError as error:
        raise WorkersError(
            f"{socket.gethostname()}: expected the folder {call.folder} of the machine that runs the stage, got "
            f"no such file: {error.filename}; run on a file system that all machines have at the same path"
        ) from error
    refuse_other_versions(expected)
    _opened.pop(thread, None)
    _, work = _opened[thread] = call.name, pickle.loads(pickled)()
    return work


def refuse_other_versions(expected: Mapping[str, str]) -> None:
    """Raises WorkersError unless this process has those versions."""
    for name, version in expected.items():
        if (found := versions().get(name)) != version:
            raise WorkersError(
                f"{socket.gethostname()}: expected {name} {version}, which the stage runs with, got {found}; install "
                "the same there and restart the cluster's workers"
            )
