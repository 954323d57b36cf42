"""One value of a params.yaml changed in place, with all comments kept."""

import io
from pathlib import Path

from ruamel.yaml import YAML

from antvisionps.core.errors import ParamsError
from antvisionps.params.section import parse, read_text


def with_one_more(path: Path, section: str, key: str, value: str) -> str:
    """The file's text with `value` at the end of that list, in the form in which DVC writes YAML. Raises ParamsError
    where there is no such list."""
    document = parse(path, read_text(path), kind="rt")
    listed = document.get(section, {}).get(key) if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ParamsError(f"{path}: {section}.{key}: expected a list, got {listed}")
    listed.append(value)
    changed = io.StringIO()
    YAML().dump(document, changed)
    return changed.getvalue()
