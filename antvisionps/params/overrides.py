"""Changes of params as `dvc exp run -S` takes them: in the grammar of Hydra's overrides, which is YAML's for numbers
and words alone."""

import re
from collections.abc import Iterator

_IN_A_PATH = re.compile(r"[A-Za-z_]\w*|0|[1-9]\d*", re.ASCII)
"""What may stand between dots. There a number is text too, which DVC sorts among names."""

_WRITABLE = re.compile(r"[\w \t/\-\\+.$%*@?|()\[\]{}:=,]+", re.ASCII)
_ESCAPED = re.compile(r"[\\()\[\]{}:=,]|^\s|\s$")
_ANOTHER_TYPE = re.compile(r"true|false|null|nan|[+-]?inf|[+-]?[\d._]+(e[+-]?\d+)?", re.IGNORECASE)
"""Text that would be read as something else than text."""


def overrides(key: str, value: object) -> Iterator[str]:
    """`fuse.min_score=0.3`; of a table one an entry, which joins those that are there. Raises ValueError on the name of
    an entry that the grammar cannot write."""
    section, _, rest = key.partition(".")
    name, _, entry = rest.partition(".")
    if isinstance(value, dict):
        for of_entry in value:
            yield _entry(key, str(of_entry), value[of_entry])
    elif entry:
        yield _entry(f"{section}.{name}", entry, value)
    else:
        yield f"{key}={_write(value)}"


def _entry(key: str, name: str, value: object) -> str:
    """`++fuse.min_scores.ring=0.3`, or `++fuse.min_scores={dining table: 0.3}`: Hydra takes no quotes around a key."""
    if _IN_A_PATH.fullmatch(name):
        return f"++{key}.{name}={_write(value)}"
    return f"++{key}={{{_write(name)}: {_write(value)}}}"


def _write(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_write, value))}]"
    if isinstance(value, str) and (_ANOTHER_TYPE.fullmatch(value) or not _WRITABLE.fullmatch(value)):
        raise ValueError(f"{value!r} cannot be written on the command line")
    return _ESCAPED.sub(r"\\\g<0>", str(value))
