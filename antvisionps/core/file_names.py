"""Names that come from input, as places below a folder that is written."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from antvisionps.core.errors import AntVisionPSError

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What breaks a line, or is half a character."""


def stays_below(name: str) -> bool:
    """Whether a name stays in its folder on any system: it is relative, without drive, backslash, `..` and control
    characters."""
    path = PurePosixPath(name)
    is_odd = "\\" in name or CONTROL_CHARACTERS.search(name) or PureWindowsPath(name).drive
    return not (is_odd or path.is_absolute() or ".." in path.parts)


def path_below(folder: Path, name: str, *, error: type[AntVisionPSError]) -> Path:
    """`folder`/`name`. Raises `error` on a name that does not stay below the folder."""
    if not stays_below(name) or not PurePosixPath(name).name:
        raise error(f"{folder}: a file of the name {name!r} would leave it; expected a relative name, as a/b.png")
    return folder / name


def base_name(name: str) -> str:
    """What follows the last slash or backslash."""
    return PureWindowsPath(name).name
