"""Changes of params as `dvc exp run -S` takes them: in the grammar of Hydra's overrides, which is YAML's for numbers
and words alone."""

import re

_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WRITABLE = re.compile(r"[\w \t/\-\\+.$%*@?|()\[\]{}:=,]+", re.ASCII)
_ESCAPED = re.compile(r"[\\()\[\]{}:=,]|^\s|\s$")
_ANOTHER_TYPE = re.compile(r"true|false|null|nan|[+-]?inf|[+-]?[\d._]+(e[+-]?\d+)?", re.IGNORECASE)
"""Text that would be read as something else than text."""


def override(key: str, value: object) -> str:
    """`fuse.min_score=0.3`, `++fuse.min_scores={dining table: 0.3}`. With `++` a key need not be there yet, and a table
    joins the one that is there. Raises ValueError on a name that the grammar cannot write.

    A key within a table of section fuse may be the name of a category, which need not be a word.
    """
    section, _, name = key.rpartition(".")
    if "." in section and not _WORD.fullmatch(name):
        key, value = section, {int(name) if name.isdecimal() else name: value}
    add = "++" if key.count(".") > 1 or isinstance(value, dict) else ""
    return f"{add}{key}={write(value)}"


def write(value: object) -> str:
    """Raises ValueError on text that the grammar cannot write: Hydra takes no quotes around a key."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        entries = (f"{write(name)}: {write(entry)}" for name, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(write, value))}]"
    if isinstance(value, str) and (_ANOTHER_TYPE.fullmatch(value) or not _WRITABLE.fullmatch(value)):
        raise ValueError(f"{value!r} cannot be written on the command line")
    return _ESCAPED.sub(r"\\\g<0>", str(value))
