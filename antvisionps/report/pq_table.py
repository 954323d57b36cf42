"""The table of panoptic quality that people look at first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from antvisionps.core.errors import DataError
from antvisionps.core.json_files import read_json

Summary = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""System → All, Things, Stuff → PQ, SQ, RQ in percent; None where there is nothing to measure."""


REMEDY = "run `dvc repro score`"
SUFFIX_OF_GROUP = {"All": "", "Things": "Th", "Stuff": "St"}
"""How the field abbreviates: PQ, PQTh, PQSt."""


def pq_table(summary: Summary) -> Table:
    """A row for each system, a column for each group and measure, in the summary's order."""
    table = Table(title="Panoptic quality on val, percent (Th: things, St: stuff)", box=SIMPLE_HEAD)
    table.add_column("system", no_wrap=True)
    for group, measures in next(iter(summary.values()), {}).items():
        for measure in measures:
            table.add_column(measure + SUFFIX_OF_GROUP.get(group, f" {group}"), justify="right", no_wrap=True)
    for system, groups in summary.items():
        values = [value for measures in groups.values() for value in measures.values()]
        table.add_row(system, *("–" if value is None else f"{value:.1f}" for value in values))
    return table


def read_summary(path: Path) -> Summary:
    """What stage score wrote to panoptic.json. Raises DataError if it is missing or broken."""
    summary: Any = read_json(path, what="summary", remedy=REMEDY, error=DataError)
    try:
        return TypeAdapter(Summary).validate_python(summary)
    except ValidationError as error:
        raise DataError(f"{path}: not the summary that stage score writes; {REMEDY}") from error
