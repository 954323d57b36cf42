"""The table of panoptic quality that people look at first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from antvisionps.core.errors import DataError
from antvisionps.core.json_files import read_json
from antvisionps.report.tables import print_table

Summary = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""System → All, Things, Stuff → PQ, SQ, RQ in percent; None where there is nothing to measure."""


REMEDY = "run `dvc repro score`"
SUFFIX_OF_GROUP = {"All": "", "Things": "Th", "Stuff": "St"}
"""How the field abbreviates: PQ, PQTh, PQSt."""

IGNORED_FILE = "ignored.json"
IGNORED = "ignored"
"""A metric in words, which `dvc exp show` and `dvc metrics diff` list beside the numbers."""


def print_pq(summary: Summary, ignored: str) -> None:
    """A row for each system, a column for each group and measure, in the summary's order; then what is ignored."""
    rows = [{"system": system, **_values(groups)} for system, groups in summary.items()]
    names = [name for name in rows[0] if name != "system"] if rows else []
    title = "Panoptic quality on val, percent (Th: things, St: stuff)"
    print_table(title, rows, dict.fromkeys(names, ".1f"))
    if ignored:
        print(f"ignored: {ignored}")


def _values(groups: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {
        measure + SUFFIX_OF_GROUP.get(group, f" {group}"): value
        for group, measures in groups.items()
        for measure, value in measures.items()
    }


def read_summary(path: Path) -> Summary:
    """What stage score wrote to panoptic.json. Raises DataError if it is missing or broken."""
    summary: Any = read_json(path, what="summary", remedy=REMEDY, error=DataError)
    try:
        return TypeAdapter(Summary).validate_python(summary)
    except ValidationError as error:
        raise DataError(f"{path}: not the summary that stage score writes; {REMEDY}") from error


def write_ignored(metrics: Path, ignored: str) -> None:
    document = {IGNORED: ignored} if ignored else {}
    (metrics / IGNORED_FILE).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def read_ignored(metrics: Path) -> str:
    """Which params the run ignored, and why; empty if none. Raises DataError if the file is missing or broken."""
    path = metrics / IGNORED_FILE
    document = read_json(path, what="list of ignored params", remedy=REMEDY, error=DataError)
    ignored = document.get(IGNORED, "") if isinstance(document, dict) else None
    if not isinstance(ignored, str):
        raise DataError(f"{path}: not the ignored params that stage score writes; {REMEDY}")
    return ignored
