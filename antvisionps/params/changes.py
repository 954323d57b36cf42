"""What differs between two params files, as `key.of.it=value`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

WITHOUT_EFFECT = "runtime"
"""The section that changes no result."""


def param_changes(params: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """`fuse.min_score=0.3` of every value that `base` has not, in the order of `params`; `~fuse.key` of what is gone.

    Section `runtime` is left out.
    """
    now, before = dict(_flat(params)), dict(_flat(base))
    changed = [f"{key}={_written(value)}" for key, value in now.items() if key not in before or before[key] != value]
    return changed + [f"~{key}" for key in before if key not in now]


def _flat(node: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value of everything that is no table, and of empty tables."""
    for key, value in node.items():
        if not above and key == WITHOUT_EFFECT:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
