"""Files that a user or another tool hands in: which of those in a folder count, and how any of them is opened."""

import stat
from io import BufferedReader
from pathlib import Path, PurePath

_LEFT_BY_SYSTEMS = frozenset(
    {".ds_store", "$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "thumbs.db"}
)
"""What macOS, Windows and network drives put beside other files, in small letters."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_hidden(name: PurePath) -> bool:
    """Whether a path, relative to a folder, is or lies in what starts with a dot or is left by a system."""
    return any(part.startswith(".") or is_left_by_system(part) for part in name.parts)


def is_left_by_system(name: str) -> bool:
    """Whether a file or folder of this name comes from a file manager, as .DS_Store, ._a.png and Thumbs.db do."""
    return name.startswith("._") or name.lower() in _LEFT_BY_SYSTEMS


def files_below(folder: Path) -> list[Path]:
    """All that is no folder in and below `folder`, but for what is hidden; sorted."""
    paths = (path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)))
    return sorted(path for path in paths if not path.is_dir())


def refuse_other_than_file(path: Path) -> None:
    """Raises OSError on a folder, and on a FIFO, a socket or a device, which may never end or never begin."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")
        raise OSError(f"expected a file, got {kind}")


def open_file(path: Path) -> BufferedReader:
    """The file, open to be read. Raises OSError on what is missing or no file."""
    refuse_other_than_file(path)
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """All of the file. Raises OSError on what is missing or no file."""
    refuse_other_than_file(path)
    return path.read_bytes()
