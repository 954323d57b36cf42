"""The report's tables in Markdown, with our figures beside the report's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antvisionps.experiments.report_tables import Figures, LeftOut, Row, Table

HEAD = ("network", "variant", "PQ", "report", "difference", "experiment")
NONE = "–"


@dataclass(frozen=True)
class Result:
    """A row's experiment, and what it scored; None before it has run."""

    row: Row
    network: str
    experiment: str
    figures: Figures | None


def figures_of(summary: Mapping[str, Any], system: str) -> Figures:
    """A system's PQ of metrics/panoptic.json; 0 where no category of a group occurs."""
    groups = summary[system]
    return Figures(*(groups[group]["PQ"] or 0.0 for group in ("All", "Things", "Stuff")))


def section(table: Table, results: Sequence[Result], left_out: Sequence[LeftOut]) -> str:
    """`## Table n`, a line a row, and what is left out with the reason."""
    lines = [f"## Table {table.number}: {table.title}", ""]
    if results:
        lines += [_line(HEAD), "|---|---|---:|---:|---:|---|", *(_line(_cells(result)) for result in results), ""]
    if left_out:
        rows = "; ".join(f"{left.row.network} {left.row.variant} ({left.reason})" for left in left_out)
        lines += [f"Left out: {rows}.", ""]
    return "\n".join(lines)


def document(profile: str, command: str, sections: Sequence[str]) -> str:
    head = (
        f"# The report's tables on `{profile}`\n\n"
        "PQ in percent on val, of things and stuff in brackets; beside it the report's figure (Hong et al. 2019, on "
        "COCO val2017), and ours less the report's. Every row is a DVC experiment of that name: `dvc exp show`, "
        f"`dvc exp apply NAME`. On other data or a smaller budget the difference tells nothing of the method. Made "
        f"by `{command}`.\n"
    )
    return "\n".join([head, *sections]).rstrip() + "\n"


def _cells(result: Result) -> tuple[str, ...]:
    report, ours = result.row.report, result.figures
    return (
        result.network,
        result.row.variant,
        _told(ours) if ours else "not run yet",
        _told(report) if report else NONE,
        _told(_difference(ours, report), sign="+") if ours and report else NONE,
        f"`{result.experiment}`",
    )


def _difference(ours: Figures, report: Figures) -> Figures:
    things, stuff = (
        None if theirs is None or mine is None else mine - theirs
        for mine, theirs in ((ours.things, report.things), (ours.stuff, report.stuff))
    )
    return Figures(ours.pq - report.pq, things, stuff)


def _told(figures: Figures, *, sign: str = "") -> str:
    """`45.1 (56.8 / 28.3)`."""
    parts = [f"{part:{sign}.1f}".replace("-", "−") for part in figures if part is not None]
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({' / '.join(parts[1:])})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
