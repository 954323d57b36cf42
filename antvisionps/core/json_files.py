"""JSON files, read with the remedy in the error."""

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antvisionps.core.errors import AntVisionPSError, CacheError
from antvisionps.core.input_files import open_file, read_file


def read_json(path: Path, *, what: str, remedy: str, error: type[AntVisionPSError] = CacheError) -> Any:
    """The file's JSON. Raises `error` on a missing, unreadable or broken file; it says `what` was expected and the
    `remedy`."""
    try:
        return json.loads(read_file(path))
    except (OSError, ValueError) as problem:
        raise error(_unreadable(path, problem, what, remedy)) from problem


def iterate_json(
    path: Path, prefix: str, *, what: str, remedy: str, error: type[AntVisionPSError] = CacheError
) -> Iterator[Any]:
    """The elements of a list, one at a time, for a JSON that is too large to be held whole.

    `prefix` is ijson's: `item` where the JSON is the list, `key.item` where it is the value of an object's key; without
    such a key there is no element. Raises what `read_json` does, and where the JSON is no list or no object.
    """
    import ijson

    try:
        with _open_utf8(path) as file:
            outermost, _ = next(ijson.basic_parse(file))
            expected, kind = ("start_array", "list") if prefix == "item" else ("start_map", "object")
            if outermost != expected:
                raise ValueError(f"its JSON is no {kind}")
        with _open_utf8(path) as file:
            yield from ijson.items(file, prefix, use_float=True)
    except (OSError, ValueError, ijson.JSONError) as problem:
        raise error(_unreadable(path, problem, what, remedy)) from problem


@contextmanager
def _open_utf8(path: Path) -> Iterator[Any]:
    """The file's bytes in UTF-8 without a byte-order mark, whichever of JSON's encodings it has."""
    with open_file(path) as file:
        encoding = json.detect_encoding(file.read(4))
        file.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        yield file if encoding.startswith("utf-8") else io.BytesIO(file.read().decode(encoding).encode())


def _unreadable(path: Path, problem: Exception, what: str, remedy: str) -> str:
    reason = "no such file" if isinstance(problem, FileNotFoundError) else str(problem).strip().partition("\n")[0]
    return f"{path}: no readable {what} ({reason}); {remedy}"
