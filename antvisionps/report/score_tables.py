"""The tables that stage score wrote, checked: numbers are in range, names are the systems' and the data set's."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, RootModel

from antvisionps.core.documents import Document, read_document
from antvisionps.core.errors import DataError, clipped, first_line
from antvisionps.core.input_files import read_file
from antvisionps.evaluation.error_kinds import KINDS
from antvisionps.evaluation.panoptic_quality import SIZES
from antvisionps.panoptic.categories import CategorySet

Json = dict[str, Any]
Summary = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""System → All, Things, Stuff → PQ, SQ, RQ in percent; None where there is nothing to measure."""

REMEDY = "run `dvc repro score`"

IGNORED_FILE = "ignored.json"
IGNORED = "ignored"
"""A metric in words, which `dvc exp show` and `dvc metrics diff` list beside the numbers."""

_PERCENT_LIMIT = 100.0001
"""A mean of numbers up to 100 may round to more."""

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")

_Percent = Annotated[float, Field(ge=0, le=_PERCENT_LIMIT)]


class _Measures(Document):
    PQ: _Percent | None
    SQ: _Percent | None
    RQ: _Percent | None


class _Ignored(Document):
    ignored: str = ""


_SummaryDocument = RootModel[dict[str, dict[Literal["All", "Things", "Stuff"], _Measures]]]


def per_image_schema(*, text_ids: bool) -> pa.Schema:
    """Of per_image.parquet, a row for each system, image and category: what any subset of images is scored by. Images
    have the data set's own ids, numbers or text."""
    return pa.schema(
        [
            ("system", pa.string()),
            ("image_id", pa.string() if text_ids else pa.int64()),
            ("category_id", pa.int64()),
            ("tp", pa.int64()),
            ("fp", pa.int64()),
            ("fn", pa.int64()),
            ("iou_sum", pa.float64()),
        ]
    )


def read_summary(path: Path) -> Summary:
    """What stage score wrote to panoptic.json. Raises DataError if it is missing or broken."""
    summary: Summary = read_document(
        path, _SummaryDocument, what="summary", remedy=REMEDY, error=DataError
    ).model_dump()
    return summary


def write_ignored(metrics: Path, ignored: str) -> None:
    document = {IGNORED: ignored} if ignored else {}
    (metrics / IGNORED_FILE).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def read_ignored(metrics: Path) -> str:
    """Which params the run ignored, and why; empty if none. Raises DataError if the file is missing or broken."""
    path = metrics / IGNORED_FILE
    return read_document(path, _Ignored, what="list of ignored params", remedy=REMEDY, error=DataError).ignored


def read_metrics(folder: Path, *, systems: Sequence[str], categories: CategorySet) -> Json:
    """All tables, for the page. Raises DataError on a missing or broken one, and on one of other systems."""
    summary = read_summary(folder / "panoptic.json")
    if list(summary) != list(systems):
        path = folder / "panoptic.json"
        raise DataError(f"{path}: expected the systems {list(systems)}, got {clipped(list(summary))}; {REMEDY}")
    system = {"system": _one_of(systems)}
    quality = {"PQ": _percent, "SQ": _percent, "RQ": _percent, "tp": parse_count, "fp": parse_count, "fn": parse_count}
    change = {"PQ": _difference, "low": _difference, "high": _difference}
    group, minus = _one_of(("All", "Things", "Stuff")), _one_of(("", *systems))
    category = _one_of([category.name for category in categories.categories])
    budget = {"perfect": _text, "PQ": _percent, "PQ_things": _percent, "PQ_stuff": _percent}
    kinds = {"kind": _one_of(KINDS), "segments": parse_count, "PQ_lost": _percent}
    return {
        "summary": summary,
        "intervals": read_table(folder / "intervals.csv", {"group": group} | system | {"minus": minus} | change),
        "per_class": read_table(folder / "per_class.csv", {"category": category} | system | quality),
        "per_size": read_table(folder / "per_size.csv", system | {"size": _one_of(SIZES)} | quality),
        "error_budget": read_table(folder / "error_budget.csv", budget),
        "error_kinds": read_table(folder / "error_kinds.csv", {"group": group} | system | kinds),
    }


def read_table(path: Path, columns: Mapping[str, Callable[[str], Any]]) -> list[Json]:
    """Rows of a CSV with just these columns, each cell as its column reads it; two rows do not have the same texts.

    Raises DataError.
    """
    try:
        header, *rows = read_rows(path, delimiter=",")
        if header != list(columns):
            raise ValueError(f"expected the columns {list(columns)}, got {clipped(header)}")
        table = [_parse_row(number, row, columns) for number, row in enumerate(rows, start=2)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not the table that stage score writes ({first_line(error)}); {REMEDY}") from error
    seen: set[tuple[str, ...]] = set()
    for row in table:
        texts = tuple(value for value in row.values() if isinstance(value, str))
        if texts in seen:
            raise DataError(f"{path}: the row of {', '.join(texts)} stands twice; {REMEDY}")
        seen.add(texts)
    return table


def read_rows(path: Path, *, delimiter: str) -> list[list[str]]:
    """The cells of a CSV, each row with as many as the first. Raises OSError, ValueError and csv.Error."""
    text = read_file(path).decode("utf-8")
    if not text.endswith("\n"):
        raise ValueError("its end is missing")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(f"line {number}: expected {len(rows[0])} cells, got {len(row)}")
    return rows


def parse_number(text: str) -> float:
    """Raises ValueError on all but plain decimals: Python's float also reads "1_0", " 5" and "nan"."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError("expected a number")
    return value


def _parse_row(number: int, row: Sequence[str], columns: Mapping[str, Callable[[str], Any]]) -> Json:
    parsed = {}
    for (name, parse), text in zip(columns.items(), row, strict=True):
        try:
            parsed[name] = parse(text)
        except ValueError as error:
            raise ValueError(f"line {number}, {name}: {error}, got {clipped(text)}") from error
    return parsed


def _one_of(names: Iterable[str]) -> Callable[[str], str]:
    known = list(names)

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"expected one of {clipped(known)}")
        return text

    return parse


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected a name")
    return text


def parse_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError("expected a whole number from 0 on")
    return int(text)


def _percent(text: str) -> float | int | None:
    return _number(text, low=0)


def _difference(text: str) -> float | int | None:
    return _number(text, low=-_PERCENT_LIMIT)


def _number(text: str, *, low: float) -> float | int | None:
    """None of an empty cell, an int where there is no point."""
    if text == "":
        return None
    value = parse_number(text)
    if not low <= value <= _PERCENT_LIMIT:
        raise ValueError(f"expected a number from {low:g} to 100")
    return int(value) if value.is_integer() and "." not in text else round(value, 4)
