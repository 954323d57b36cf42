"""Copies of folders."""

import shutil
from pathlib import Path


def copy_files(source: Path, target: Path) -> None:
    """Copies the contents of all files below `source` to `target`. An error tells which; `shutil.copytree`'s
    does not."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
