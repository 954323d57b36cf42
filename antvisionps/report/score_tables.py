"""The tables that stage score wrote, checked: numbers are in range, names are the systems' and the data set's."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, RootModel

from antvisionps.core.documents import Document, read_document
from antvisionps.core.errors import DataError, clipped, first_line
from antvisionps.core.input_files import read_file
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.evaluation.average_precision import RECALL_POINTS
from antvisionps.evaluation.panoptic_quality import SIZES
from antvisionps.evaluation.score_rows import LRP_COLUMNS
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


class _EndMeasures(Document):
    AP: _Percent | None
    AP50: _Percent | None


IMAGE_COUNTS_FILE = "per_image.parquet"
CURVES_FILE = "precision_recall_per_class.parquet"
CURVES_SCHEMA = pa.schema(
    [("end", pa.string()), ("category_id", pa.int32()), ("recall", pa.float64()), ("precision", pa.float64())]
)
"""A row for each of the 101 recalls, ascending; fractions of 1."""

_EndsDocument = RootModel[dict[str, _EndMeasures]]
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
    """What stage score wrote of PQ, or of boundary PQ. Raises DataError if it is missing or broken."""
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


def read_metrics(
    folder: Path, *, scores: Path, systems: Sequence[str], ends: Sequence[str], categories: CategorySet
) -> Json:
    """All tables, for the page; `scores` has the curves. Raises DataError on a missing or broken one, and on one of
    other systems or ends."""
    summary = read_summary(folder / "panoptic.json")
    if list(summary) != list(systems):
        path = folder / "panoptic.json"
        raise DataError(f"{path}: expected the systems {list(systems)}, got {clipped(list(summary))}; {REMEDY}")
    group = {"group": _one_of(("All", "Things", "Stuff"))}
    system, minus = {"system": _one_of(systems)}, {"minus": _one_of(("", *systems))}
    category = {"category": _one_of([category.name for category in categories.categories])}
    quality = {"PQ": _percent, "SQ": _percent, "RQ": _percent, "tp": parse_count, "fp": parse_count, "fn": parse_count}
    change = {"PQ": _difference, "low": _difference, "high": _difference}
    of_class, of_size = category | system | quality, system | {"size": _one_of(SIZES)} | quality
    columns: dict[str, dict[str, Callable[[str], Any]]] = {
        "intervals": group | system | minus | change,
        "per_class": of_class,
        "per_size": of_size,
        "boundary_per_class": of_class,
        "boundary_per_size": of_size,
        "error_budget": {"perfect": _text, "PQ": _percent, "PQ_things": _percent, "PQ_stuff": _percent},
        "lrp": group | system | _LRP,
        "lrp_per_class": category | system | _LRP | {"min_score": _fraction},
        "per_class_ap": category | {"end": _one_of(ends), "AP": _percent, "AP50": _percent, "n_gt": parse_count},
        "slices": {"attribute": _text, "value": _text, "images": parse_count} | group | system | minus | change,
    }
    of_either = {"name": _one_of([*systems, *ends]), "of": _one_of(("instances", "semantics", "segments"))}
    bins = {"low": _fraction, "high": _fraction, "count": parse_count, "confidence": _fraction, "right": _fraction}
    tables = {name: read_table(folder / f"{name}.csv", of_table) for name, of_table in columns.items()}
    return tables | {
        "summary": summary,
        "boundary": read_summary(folder / "boundary_panoptic.json"),
        "ends": _read_ends(folder / "ends.json"),
        "curves": _read_precision(scores / CURVES_FILE, ends=ends, categories=categories),
        "calibration_error": read_table(
            folder / "calibration_error.csv", of_either | {"count": parse_count, "ECE": _percent}
        ),
        "reliability": read_table(folder / "reliability.csv", of_either | bins, key=("name", "of", "low")),
    }


def _read_ends(path: Path) -> Json:
    """End → AP and AP50, in percent."""
    return read_document(path, _EndsDocument, what="APs of the ends", remedy=REMEDY, error=DataError).model_dump()


def _read_precision(path: Path, *, ends: Sequence[str], categories: CategorySet) -> list[Json]:
    """Of each end and class index the precision at the 101 recalls, in thousandths. Raises DataError."""
    with ParquetReader(path, CURVES_SCHEMA, remedy=REMEDY, error=DataError) as file:
        rows = file.read()
    precision = rows["precision"].to_numpy().reshape(-1, len(RECALL_POINTS)) if _has_curves(rows) else None
    names, ids = (rows[name].to_pylist()[:: len(RECALL_POINTS)] for name in ("end", "category_id"))
    if precision is None or not {*names} <= {*ends} or not {*ids} <= {*categories.thing_ids}:
        raise DataError(f"{path}: expected curves of {len(RECALL_POINTS)} points of the ends and things; {REMEDY}")
    curves = np.rint(1000 * precision).astype(int).tolist()
    return [
        {"end": end, "class": categories.class_index(category_id), "precision": curve}
        for end, category_id, curve in zip(names, ids, curves, strict=True)
    ]


def _has_curves(rows: pa.Table) -> bool:
    """Whether every column is whole, and the precisions are fractions of as many recalls as there have to be."""
    precision = rows["precision"].to_numpy()
    is_whole = not any(column.null_count for column in rows.columns) and len(precision) % len(RECALL_POINTS) == 0
    return is_whole and bool(((precision >= 0) & (precision <= 1)).all())


def read_table(
    path: Path, columns: Mapping[str, Callable[[str], Any]], *, key: Sequence[str] | None = None
) -> list[Json]:
    """Rows of a CSV with just these columns, each cell as its column reads it; two rows do not have the same key, which
    are the texts unless it is given.

    Raises DataError.
    """
    try:
        header, *rows = read_cells(path, delimiter=",")
        if header != list(columns):
            raise ValueError(f"expected the columns {list(columns)}, got {clipped(header)}")
        table = [_parse_row(number, row, columns) for number, row in enumerate(rows, start=2)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not the table that stage score writes ({first_line(error)}); {REMEDY}") from error
    seen: set[tuple[str, ...]] = set()
    for row in table:
        texts = tuple(str(row[name]) for name in key or row if key or isinstance(row[name], str))
        if texts in seen:
            raise DataError(f"{path}: the row of {', '.join(texts)} stands twice; {REMEDY}")
        seen.add(texts)
    return table


def read_cells(path: Path, *, delimiter: str) -> list[list[str]]:
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


def _fraction(text: str) -> float | int | None:
    return _number(text, low=0, high=1.000001)


def _number(text: str, *, low: float, high: float = _PERCENT_LIMIT) -> float | int | None:
    """None of an empty cell, an int where there is no point."""
    if text == "":
        return None
    value = parse_number(text)
    if not low <= value <= high:
        raise ValueError(f"expected a number from {low:g} to {high:g}")
    return int(value) if value.is_integer() and "." not in text else round(value, 4)


_LRP = dict.fromkeys(LRP_COLUMNS[2:], _percent)
