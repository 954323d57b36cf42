"""Files and folders that appear whole or not at all, so that a killed stage leaves nothing half written behind."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _unfinished_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it takes the name `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished_name(path)
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; on success it replaces the folder `path`, on an error it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished_name(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
