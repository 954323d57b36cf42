"""The table of panoptic quality that people look at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from antvisionps.report.tables import print_table

if TYPE_CHECKING:
    from antvisionps.report.score_tables import Summary

SUFFIX_OF_GROUP = {"All": "", "Things": "Th", "Stuff": "St"}
"""How the field abbreviates: PQ, PQTh, PQSt."""

GROUP_OF_PQ = {f"PQ{suffix}": group for group, suffix in SUFFIX_OF_GROUP.items()}
"""PQ, PQTh, PQSt → the group of metrics/panoptic.json."""


def print_pq(summary: Summary, ignored: str = "", *, of: str = "on val, ") -> None:
    """A row for each system, a column for each group and measure, in the summary's order; then what is ignored."""
    rows = [{"system": system, **_values(groups)} for system, groups in summary.items()]
    print_table(f"Panoptic quality {of}percent (Th: things, St: stuff)", rows)
    if ignored:
        print(f"ignored: {ignored}")


def pq_difference(now: float | None, then: float | None) -> float | None:
    """`now` less `then`; None where one of them has nothing to measure."""
    return None if now is None or then is None else now - then


def _values(groups: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    return {
        measure + SUFFIX_OF_GROUP.get(group, f" {group}"): value
        for group, measures in groups.items()
        for measure, value in measures.items()
    }
