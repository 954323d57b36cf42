"""Files and folders that appear whole or not at all, so that a killed stage leaves nothing half written behind.

While one process writes `fused`, there lie beside it `.fused.unfinished`; `.fused.unfinished.lock`, which that process
holds; and, for the moment in which the two change names, the former output as `.fused.unfinished.old`. They are gone
when the process ends well or by an error. What a kill leaves is put right by whoever writes `fused` next. Nothing is
forced onto the disk: what has its name is whole after any kill, though not after a power cut.
"""

import os
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from antvisionps.core.errors import OutputError
from antvisionps.core.input_files import is_left_by_system
from antvisionps.core.locks import open_locked, unlock
from antvisionps.core.os_errors import OF_THE_DISK


def unfinished(path: Path) -> Path:
    """Where the process that is about to write `path` writes it: beside it, so what is relative to it stays so."""
    return path.with_name(f".{path.name}.unfinished")


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished.lock")


def _former(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished.old")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it takes the name `path`, on an error it is removed.

    A symbolic link of that name is replaced, not followed. Raises OutputError on a folder or a device, else what
    `sole_writer` does.
    """
    _refuse_other_than_file(path)
    with sole_writer(path):
        yield unfinished(path)
        os.replace(unfinished(path), path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; on success it replaces the folder `path`, on an error it goes.

    Raises OutputError on what cannot be replaced whole, else what `sole_writer` does.
    """
    _refuse_irreplaceable(path)
    with sole_writer(path):
        unfinished(path).mkdir()
        yield unfinished(path)
        if path.exists():
            os.replace(path, _former(path))
        os.replace(unfinished(path), path)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps other processes of ours from writing `path` until the block ends.

    An error of the disk that names no file gets this name. Folders that are made on the way and stay empty go again.
    Raises OutputError where another process writes `path`, and OSError where nobody can.
    """
    with named_errors(path), _without_empty_folders(path.parent), _locked(path):
        _put_back(path)
        _remove(unfinished(path))
        _remove(_former(path))
        yield


def refuse_other_files(folder: Path, *, names: Collection[str], links: Collection[str] = ()) -> None:
    """Raises OutputError on a folder, which is to be replaced, of other files than these names and symbolic links.
    What a system left there does not count."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_ours = path.name in names or (path.name in links and path.is_symlink())
        if not is_ours and not is_left_by_system(path.name):
            raise OutputError(f"{folder}: holds {path.name}, and is replaced whole; name a new folder")


def refuse_unwritable(path: Path) -> None:
    """Raises now what `atomic_file` would raise later, after all the work."""
    _refuse_other_than_file(path)
    with sole_writer(path):
        pass


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """At the end nothing but the output itself is there."""
    lock = open_locked(_lock_file(path))
    if lock is None:
        raise OutputError(f"{path}: {_holder(path)} writes it; wait for its end, or end it, and run this again")
    with lock:
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            _put_back(path)
            for leftover in (unfinished(path), _former(path), _lock_file(path)):  # the lock last, while it is held
                with suppress(OSError):
                    _remove(leftover)
            unlock(lock)


def _holder(path: Path) -> str:
    with suppress(OSError):
        return _lock_file(path).read_text(encoding="utf-8") or "another process"
    return "another process"


def _put_back(path: Path) -> None:
    """The former output, where the new one did not get its name."""
    if not path.exists() and _former(path).exists():
        os.replace(_former(path), path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Errors name the place as the user knows it, also those of writing to an open file, which name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in OF_THE_DISK:
            error.filename = str(path)
        for name in ("filename", "filename2"):
            if getattr(error, name) is not None:  # to set None changes how the error is printed
                setattr(error, name, _known_name(getattr(error, name), path))
        raise


def _known_name(name: object, path: Path) -> object:
    if name in (str(_lock_file(path)), str(_former(path))):
        return str(path)
    if isinstance(name, str) and Path(name).is_relative_to(unfinished(path)):
        return str(path / Path(name).relative_to(unfinished(path)))
    return name


@contextmanager
def _without_empty_folders(place: Path) -> Iterator[None]:
    """Removes folders of this path that were missing before and are empty at the end."""
    missing = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _refuse_other_than_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: expected a file to write, got {_kind(path)}; name another")


def _refuse_irreplaceable(path: Path) -> None:
    if path.is_symlink():
        link = f"a symbolic link to {path.readlink()}"
        raise OutputError(f"{path}: expected a folder to write, got {link}; name where it leads, or remove the link")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: expected a folder to write, got {_kind(path)}; name another")
    if Path.cwd().is_relative_to(os.path.realpath(path)):
        raise OutputError(f"{path}: holds the working folder, and is replaced whole; name a folder of its own")
    if path.is_mount():
        raise OutputError(f"{path}: a disk is mounted there, so it cannot be replaced whole; name a folder inside it")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: cannot be written, and is replaced whole; change its permissions, or name another")


def _kind(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    return "a file" if path.is_file() else "a device or pipe"
