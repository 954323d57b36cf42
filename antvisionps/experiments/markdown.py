"""Tables in Markdown: PQ of each row, its gain over the ends, and what the report has."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antvisionps.core.atomic import atomic_file
from antvisionps.experiments.tables import Figures, Row
from antvisionps.params.whole import FUSION_SYSTEM
from antvisionps.report.pq_table import GROUP_OF_PQ

NONE, NOT_RUN = "–", "not run yet"


@dataclass(frozen=True)
class Result:
    """A row, and one entry a seed: its experiment, and metrics/panoptic.json of that; None before it has run."""

    row: Row
    experiments: Sequence[str]
    summaries: Sequence[Mapping[str, Any] | None]

    def pq(self, group: str) -> list[float]:
        """Of the seeds that have run; 0 where no category of the group occurs."""
        return [summary[self.row.system][group]["PQ"] or 0.0 for summary in self.summaries if summary]

    def gains(self) -> list[float]:
        """Of a fusion and the seeds that have run: its PQ less that of the better end; else empty."""
        if self.row.system != FUSION_SYSTEM:
            return []
        found = [{system: groups["All"]["PQ"] or 0.0 for system, groups in s.items()} for s in self.summaries if s]
        return [pq.pop(FUSION_SYSTEM) - max(pq.values()) for pq in found]


def table(results: Sequence[Result]) -> str:
    """A line a row: mean ± standard deviation over the seeds; columns that would be empty are left out."""
    columns = {"": [result.row.name for result in results]}
    for name, group in GROUP_OF_PQ.items():
        empty = NOT_RUN if name == "PQ" else NONE
        columns[name] = [_mean_and_spread(result.pq(group), empty) for result in results]
    if any(len(result.experiments) > 1 for result in results):
        columns["PQ of each seed"] = [_of_each_seed(result) for result in results]
    if any(result.row.system == FUSION_SYSTEM for result in results):
        columns["gain over the better end"] = [_mean_and_spread(result.gains(), sign="+") for result in results]
    if any(result.row.report for result in results):
        columns["report"] = [_format(result.row.report) if result.row.report else NONE for result in results]
        columns["difference"] = [_difference(result) for result in results]
    if all(len(result.experiments) == 1 for result in results):
        columns["experiment"] = [f"`{result.experiments[0]}`" for result in results]
    rows = [tuple(columns), ("---",) * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def replace_section(path: Path, heading: str, body: str) -> None:
    """Writes `body` under `## heading` of a Markdown file; other sections stay."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {path.stem.capitalize()}\n"
    section = f"## {heading}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda match: section + ("\n" if match.end() < len(text) else ""), text)
    else:
        text = f"{text.rstrip()}\n\n{section}"
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _of_each_seed(result: Result) -> str:
    finished = iter(result.pq("All"))
    return ", ".join(f"{next(finished):.1f}" if summary else NONE for summary in result.summaries)


def _difference(result: Result) -> str:
    """Ours less the report's, of what the report has."""
    report = result.row.report
    ours = [statistics.mean(pq) for group in GROUP_OF_PQ.values() if (pq := result.pq(group))]
    if report is None or not ours:
        return NONE
    parts = [None if theirs is None else mine - theirs for mine, theirs in zip(ours, report, strict=True)]
    return _format(parts, sign="+")


def _format(figures: Figures | Sequence[float | None], *, sign: str = "") -> str:
    """`45.1 (56.8 / 28.3)`."""
    parts = [f"{part:{sign}.1f}".replace("-", "−") for part in figures if part is not None]
    return parts[0] if len(parts) == 1 else f"{parts[0]} ({' / '.join(parts[1:])})"


def _mean_and_spread(values: Sequence[float], empty: str = NONE, *, sign: str = "") -> str:
    if not values:
        return empty
    mean = f"{statistics.mean(values):{sign}.2f}".replace("-", "−")
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"
