"""Locks between processes, which the kernel frees when their holder ends, however it ends."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

WAIT_S = 5.0
"""A killed process, and those that it started, take a moment to be gone."""

_RETRY_S = 0.05
_NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})


def open_locked(path: Path) -> FileIO | None:
    """The file, made where there is none, open and locked; None where another process keeps the lock.

    Its folder may come and go: the file is locked under its name, or not at all. On a disk without locks every process
    gets it.
    """
    give_up = time.monotonic() + WAIT_S
    while True:
        try:
            file = FileIO(str(path), "a+")
        except FileNotFoundError:
            if time.monotonic() > give_up:
                raise
            _make_folder(path.parent)
            continue
        if _lock(file) and _is_named(file, path):
            return file
        file.close()
        if time.monotonic() > give_up:
            return None
        time.sleep(_RETRY_S)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        time.sleep(_RETRY_S)  # no file can be made in it, or the holder before this one removes it just now
    else:
        folder.mkdir(parents=True, exist_ok=True)


def unlock(file: FileIO) -> None:
    """Closing it is not enough: forked processes have it, too."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: FileIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True


def _is_named(file: FileIO, path: Path) -> bool:
    """Whether the name still leads to it: the holder before this one may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
