"""JSON files of our own stages, read with the remedy in the error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from antvisionps.core.errors import AntVisionPSError, CacheError


def read_json(path: Path, *, what: str, remedy: str, error: type[AntVisionPSError] = CacheError) -> Any:
    """The file's JSON. Raises `error` on a missing, unreadable or broken file; it says `what` was expected and the
    `remedy`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise error(f"{path}: no readable {what} ({problem}); {remedy}") from problem
