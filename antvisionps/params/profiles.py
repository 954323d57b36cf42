"""Profiles: a file that names another by `extends` and holds only what differs from it, and the whole params.yaml that
it stands for.

Tables merge key by key; anything else, null and lists too, replaces what stood there, and so does a table with the tag
`!override`.
"""

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from antvisionps.core.errors import ParamsError, clipped
from antvisionps.params.section import parse, read_text

EXTENDS = "extends"
"""Key of a profile: the file that has what it leaves out, relative to the profile's folder."""

OVERRIDE = "!override"


def read_params(path: Path) -> Any:
    """The YAML, not checked, of a whole params file or of what a profile stands for. Raises ParamsError."""
    return parse(path, compose(path))


def compose(path: Path) -> str:
    """The text of the whole params.yaml that a profile stands for; a file without `extends` is whole itself.

    A key has the profile's comment, else that of the extended file; the first lines are the profile's. The form is that
    in which DVC writes YAML, so that `dvc exp run -S` changes the lines of its key alone. Raises ParamsError.
    """
    return _compose(path, ())


def _compose(path: Path, above: tuple[Path, ...]) -> str:
    text = read_text(path)
    if not re.search(rf"^{EXTENDS} *:", text, re.MULTILINE):
        return text
    if path.resolve() in above:
        raise ParamsError(f"{path}: {EXTENDS} leads back to this file; let it name a whole one, as built_in.yaml")
    profile = parse(path, text, kind="rt")
    if not isinstance(profile, CommentedMap):
        raise ParamsError(f"{path}: expected sections of params.yaml under their names, got {clipped(profile)}")
    extended = path.parent / str(profile.pop(EXTENDS))
    params = parse(extended, _compose(extended, (*above, path.resolve())), kind="rt")
    if not isinstance(params, CommentedMap):
        raise ParamsError(f"{extended}: expected the sections of params.yaml, got {clipped(params)}")
    _merge(params, profile)
    composed = io.StringIO()
    YAML().dump(params, composed)
    return _first_lines(text) + composed.getvalue().removeprefix(_first_lines(composed.getvalue()))


def _first_lines(text: str) -> str:
    return re.match(r"(#.*\n)*", text)[0]  # type: ignore[index]  # it matches any text


def _merge(table: CommentedMap, changes: CommentedMap) -> None:
    for key, value in changes.items():
        merges = isinstance(value, CommentedMap) and value.tag.value != OVERRIDE
        if not (merges and isinstance(table.get(key), CommentedMap)):
            table[key] = _copy(value)
        else:
            _merge(table[key], value)
        _take_comment(table, changes, key)


def _copy(value: Any) -> Any:
    """The same without anchors, tags and flow style."""
    if isinstance(value, CommentedMap):
        table = CommentedMap()
        _merge(table, value)
        return table
    return [_copy(entry) for entry in value] if isinstance(value, list) else value


def _take_comment(table: CommentedMap, changes: CommentedMap, key: str) -> None:
    """Gives a key the comment that stands behind it in `changes`, if any; what stands below it stays."""
    own, _, below = _comment(table, key).partition("\n")
    comment = _comment(changes, key).partition("\n")[0] or own
    table.ca.items.pop(key, None)
    if comment or below:
        table.ca.items[key] = [None, None, CommentToken(f"{comment}\n{below}", CommentMark(0)), None]


def _comment(table: CommentedMap, key: str) -> str:
    """From behind the key to the next one, or empty."""
    _, _, behind, before = table.ca.items.get(key, (None, None, None, None))
    token = behind or (before[0] if before else None)
    return token.value if token else ""
