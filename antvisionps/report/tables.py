"""Tables for a terminal, and the same whole where output goes into a pipe or a file."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 10_000
_NARROWEST_TEXT = 20
"""To this many columns a terminal may fold text; numbers and headers it never crops, and rather breaks lines."""
_GAP = 3


def print_table(
    title: str,
    records: Sequence[Mapping[str, Any]],
    formats: Mapping[str, str] | None = None,
    *,
    width: int | None = None,
) -> None:
    """A row for each record, a column for each key; numbers to the right, None as –.

    `formats` has the format specification of columns of numbers, like {"score": ".3f"}; without one a float has one
    digit behind its point. `width` is what text is folded to, also in a pipe; None is the terminal's.
    """
    print(title if records else f"{title}: none\n")
    if not records:
        return
    columns = {name: [_cell(record[name], (formats or {}).get(name)) for record in records] for name in records[0]}
    texts = {name for name in columns if any(isinstance(record[name], str) for record in records)}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        is_text = name in texts
        table.add_column(
            Text(name),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=cell_len(name),
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    narrowest = sum(_narrowest(name, cells, name in texts) + _GAP for name, cells in columns.items())
    _print_whole(table, narrowest=narrowest, width=width)


def _narrowest(name: str, cells: Sequence[str], is_text: bool) -> int:
    longest = max(map(cell_len, cells))
    return max(cell_len(name), min(longest, _NARROWEST_TEXT) if is_text else longest)


def _print_whole(table: Table, *, narrowest: int, width: int | None) -> None:
    console = Console(width=_WIDTH_OF_A_PIPE if width is None else width)
    if width is None and sys.stdout.isatty():
        console = Console(width=max(Console().width, narrowest))
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    print("\n".join(line for line in lines if line), end="\n\n")


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _cell(value: Any, format_spec: str | None) -> str:
    """Names of a data set may hold anything: what would move the cursor or colour the terminal is replaced."""
    if value is None:
        return "–"
    spec = format_spec or (".1f" if isinstance(value, float) else "")
    text = value if isinstance(value, str) else format(value, spec)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
