"""JSON files: written as people read them, and read with the remedy in the error."""

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antvisionps.core.errors import AntVisionPSError, CacheError, first_line
from antvisionps.core.input_files import open_file, read_file
from antvisionps.core.json_depth import ShallowJson


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_json(
    path: Path, *, what: str, remedy: str, error: type[AntVisionPSError] = CacheError, allow_repeats: bool = True
) -> Any:
    """The file's JSON. Raises `error` on a missing, unreadable or broken file; it says `what` was expected and the
    `remedy`. Of a key that stands twice in an object the last one counts, or, without `allow_repeats`, is an error."""
    try:
        return parse_json(read_file(path), allow_repeats=allow_repeats)
    except (OSError, ValueError) as problem:
        raise error(_unreadable(path, problem, what, remedy)) from problem


def parse_json(text: str | bytes, *, allow_repeats: bool = True) -> Any:
    """Raises ValueError on all that is not JSON, and on what is nested too deeply for Python."""
    try:
        return json.loads(text, object_pairs_hook=None if allow_repeats else _without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


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
            yield from ijson.items(ShallowJson(file), prefix, use_float=True)
    except SystemError as problem:  # what ijson's C makes of Python's refusal of a number of thousands of digits
        raise error(_unreadable(path, problem.__cause__ or problem, what, remedy)) from problem
    except (OSError, ValueError, ijson.JSONError) as problem:
        raise error(_unreadable(path, problem, what, remedy)) from problem


@contextmanager
def _open_utf8(path: Path) -> Iterator[Any]:
    """The file's bytes in UTF-8 without a byte-order mark, whichever of JSON's encodings it has."""
    with open_file(path) as file:
        encoding = json.detect_encoding(file.read(4))
        file.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        yield file if encoding.startswith("utf-8") else io.BytesIO(file.read().decode(encoding).encode())


def _unreadable(path: Path, problem: BaseException, what: str, remedy: str) -> str:
    reason = "no such file" if isinstance(problem, FileNotFoundError) else first_line(problem)
    return f"{path}: no readable {what} ({reason}); {remedy}"
