"""The table of panoptic quality that people look at first."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from antvisionps.report.score_tables import Summary

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
