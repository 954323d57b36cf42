"""Keeps a conversion from replacing a folder that holds anything but a former one's result."""

from collections.abc import Collection
from pathlib import Path

from antvisionps.core.errors import OutputError


def refuse_other_files(out: Path, *, names: Collection[str], links: Collection[str] = ()) -> None:
    """Raises OutputError on a folder of other files than these names and symbolic links."""
    for path in out.iterdir() if out.is_dir() else ():
        if path.name not in names and not (path.name in links and path.is_symlink()):
            raise OutputError(f"{out}: holds {path.name}, and is replaced whole; name a new folder with --out")
