"""A sweep to look at: a table with bars, and a plot as SVG."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

from antvisionps.report.pq_table import pq_difference

BAR_WIDTH = 12
BEST = " best"
WIDTH_PX, HEIGHT_PX, MARGIN_PX = 760, 420, 56
LABEL_WIDTH_PX = 60
COLORS = {"PQ": "#1b6ca8", "PQTh": "#c8553d", "PQSt": "#4f8a4c"}

Pq = Mapping[str, float | None]
"""PQ, PQTh and PQSt in percent."""


def sweep_rows(
    points: Sequence[Mapping[str, object]], pq: Sequence[Pq], *, best: int
) -> list[dict[str, str | float | None]]:
    """A row a point, in the order given, a column for each key; the best row is marked."""
    low, high = _range([row["PQ"] for row in pq])
    return [
        {key.removeprefix("fuse."): _shown(value) for key, value in point.items()}
        | {name: row[name] for name in COLORS}
        | {"": _bar(row["PQ"], low, high) + (BEST if position == best else "")}
        for position, (point, row) in enumerate(zip(points, pq, strict=True))
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sweep_svg(points: Sequence[Mapping[str, object]], pq: Sequence[Pq], *, best: int, title: str) -> str:
    """How far PQ, PQTh and PQSt lie above the first point's, over the points in the order given; the best is ringed.

    Differences, as things and stuff lie much further apart than the points do.
    """
    first = pq[0]
    gains = [{name: pq_difference(row[name], first[name]) for name in COLORS} for row in pq]
    low, high = _range([row[name] for row in gains for name in COLORS])
    step = (WIDTH_PX - 2 * MARGIN_PX) / max(1, len(points) - 1)

    def place(position: int, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low) if high > low else 0.5
        return MARGIN_PX + position * step, HEIGHT_PX - MARGIN_PX - share * (HEIGHT_PX - 2 * MARGIN_PX)

    parts = [f'<text x="{MARGIN_PX}" y="24" font-weight="bold">{escape(title)}</text>']
    for value in (low, (low + high) / 2, high):
        _, y = place(0, value)
        parts.append(f'<path d="M{MARGIN_PX} {y:.1f}H{WIDTH_PX - MARGIN_PX}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN_PX - 8}" y="{y + 4:.1f}" text-anchor="end">{value:+.2f}</text>')
    for index, (name, color) in enumerate(COLORS.items()):
        found = [(position, row[name]) for position, row in enumerate(gains)]
        line = [place(position, value) for position, value in found if value is not None]
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline points="{coordinates}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in line]
        parts.append(f'<text x="{WIDTH_PX - MARGIN_PX + 6}" y="{MARGIN_PX + 16 * index}" fill="{color}">{name}</text>')
    every = math.ceil(len(points) * LABEL_WIDTH_PX / (WIDTH_PX - 2 * MARGIN_PX))
    for position, point in list(enumerate(points))[::every]:
        label = " ".join(map(_shown, point.values()))
        x, y = place(position, low)[0], HEIGHT_PX - MARGIN_PX + 18
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle" font-size="10">{escape(label)}</text>')
    highest = gains[best]["PQ"]
    if highest is not None:
        x, y = place(best, highest)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{COLORS["PQ"]}"/>')
    keys = f"{', '.join(points[0])}; above the first, whose PQ is {_percent(first['PQ'])}"
    parts.append(f'<text x="{WIDTH_PX / 2}" y="{HEIGHT_PX - 12}" text-anchor="middle">{escape(keys)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" font-family="sans-serif" '
        'font-size="12">\n<rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _range(values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None] or [0.0]
    return min(known), max(known)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None:
        return ""
    share = (value - low) / (high - low) if high > low else 1.0
    return "█" * max(1, round(share * BAR_WIDTH))
