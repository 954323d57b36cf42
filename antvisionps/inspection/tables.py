"""Tables for a terminal, and the same whole where output goes into a pipe or a file."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 10_000


def print_table(title: str, records: Sequence[Mapping[str, Any]], formats: Mapping[str, str] | None = None) -> None:
    """A row for each record, a column for each key; numbers to the right, None as –.

    `formats` has the format specification of columns of numbers, like {"score": ".3f"}.
    """
    print(title if records else f"{title}: none\n")
    if not records:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in records[0]:
        is_text = any(isinstance(record[name], str) for record in records)
        table.add_column(Text(name), justify="left" if is_text else "right")
    for record in records:
        table.add_row(*(Text(_cell(value, (formats or {}).get(name, ""))) for name, value in record.items()))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    print("\n".join(line for line in lines if line), end="\n\n")


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _cell(value: Any, format_spec: str) -> str:
    """Names of a data set may hold anything: what would move the cursor or colour the terminal is replaced."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else format(value, format_spec)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
