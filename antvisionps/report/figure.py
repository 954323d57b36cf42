"""A figure for print: images in rows, what systems make of them in columns, one legend for all. Needs matplotlib.

Text stays text in a PDF, and the same input gives the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet
from antvisionps.panoptic.segments import Segment
from antvisionps.report.legend import legend_entries
from antvisionps.report.overlays import boundaries, draw_overlay

FORMATS = (".pdf", ".png")
_DPI = 300
"""Of a PNG, and of the pictures in a PDF."""

_WIDTH_IN = 7.0
"""Both columns of a page in most two-column styles."""

_GAP_IN, _TITLE_IN = 0.04, 0.2
_LEGEND_ROW_IN, _LEGEND_MARGIN_IN = 0.17, 0.08
_TITLE_PT, _LEGEND_PT = 9, 7.5
_LEGEND_ENTRY_IN, _LEGEND_CHARACTER_IN = 0.34, 0.062
_LINE_PX = 2
_VOID_RGB = (96, 96, 96)

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along, so that every machine has the same
    "pdf.fonttype": 42,  # TrueType: text can be selected, and publishers take it
    "pdf.compression": 9,
}


@dataclass(frozen=True, eq=False)
class Panel:
    """A photo (H, W, 3) uint8 RGB, with a map (H, W) of segments over it or without."""

    photo: np.ndarray
    segment_ids: np.ndarray | None = None
    segments: Sequence[Segment] = ()


def write_figure(
    path: Path, rows: Sequence[Sequence[Panel]], *, titles: Sequence[str], categories: CategorySet
) -> None:
    """Draws `rows` of as many panels as there are titles into a .pdf or .png, 7 inches wide.

    The legend has the categories that appear in a panel, things first, and void if it does. Raises DataError on another
    ending.
    """
    refuse_other_formats(path)
    with mpl.rc_context(_STYLE), atomic_file(path) as unfinished:
        figure = _draw(rows, titles, categories)
        # A date or version in the file would make it another file every day.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        figure.savefig(unfinished, format=path.suffix[1:], dpi=_DPI, metadata=metadata)


def refuse_other_formats(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")


def _draw(rows: Sequence[Sequence[Panel]], titles: Sequence[str], categories: CategorySet) -> Figure:
    column_in = (_WIDTH_IN - (len(titles) - 1) * _GAP_IN) / len(titles)
    heights_in = [column_in * row[0].photo.shape[0] / row[0].photo.shape[1] for row in rows]
    entries = _legend(rows, categories)
    widest_in = max((_LEGEND_ENTRY_IN + _LEGEND_CHARACTER_IN * len(name) for name, _ in entries), default=_WIDTH_IN)
    columns = max(1, int(_WIDTH_IN / widest_in))
    legend_in = _LEGEND_ROW_IN * -(-len(entries) // columns)
    panels_in = sum(heights_in) + (len(rows) - 1) * _GAP_IN
    height_in = _TITLE_IN + panels_in + _LEGEND_MARGIN_IN + legend_in
    figure = Figure(figsize=(_WIDTH_IN, height_in), facecolor="white")
    FigureCanvasAgg(figure)

    top_in = height_in - _TITLE_IN
    for column, title in enumerate(titles):
        middle = (column * (column_in + _GAP_IN) + column_in / 2) / _WIDTH_IN
        figure.text(middle, (top_in + _GAP_IN) / height_in, title, ha="center", va="bottom", fontsize=_TITLE_PT)
    for row, row_in in zip(rows, heights_in, strict=True):
        for column, panel in enumerate(row):
            left = column * (column_in + _GAP_IN) / _WIDTH_IN
            place = (left, (top_in - row_in) / height_in, column_in / _WIDTH_IN, row_in / height_in)
            axes = figure.add_axes(place)
            axes.imshow(
                _picture(panel, categories, width_px=round(column_in * _DPI)), interpolation="none", aspect="auto"
            )
            axes.set_axis_off()
        top_in -= row_in + _GAP_IN
    if entries:
        _draw_legend(figure, entries, columns, legend_in / height_in)
    return figure


def _picture(panel: Panel, categories: CategorySet, *, width_px: int) -> np.ndarray:
    """The panel at the size at which it is printed, so that lines are of one width whatever the photo's size."""
    height, width = panel.photo.shape[:2]
    size = (width_px, max(1, round(width_px * height / width)))
    shrinks = width_px < width
    photo = cv2.resize(panel.photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if panel.segment_ids is None:
        return photo
    segment_ids = cv2.resize(panel.segment_ids.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    picture = draw_overlay(photo, segment_ids, panel.segments, categories)
    lines = cv2.dilate(boundaries(segment_ids).astype(np.uint8), np.ones((_LINE_PX, _LINE_PX), np.uint8))
    picture[lines > 0] = 255
    return picture


Entry = tuple[str, tuple[int, int, int]]


def _legend(rows: Sequence[Sequence[Panel]], categories: CategorySet) -> list[Entry]:
    panels = [panel for row in rows for panel in row]
    entries = legend_entries((segment.category_id for panel in panels for segment in panel.segments), categories)
    maps = [panel.segment_ids for panel in panels if panel.segment_ids is not None]
    has_void = any(bool((segment_ids == VOID_SEGMENT_ID).any()) for segment_ids in maps)
    return entries + ([("void", _VOID_RGB)] if has_void else [])


def _draw_legend(figure: Figure, entries: Sequence[Entry], columns: int, height: float) -> None:
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for _, color in entries]
    legend = figure.legend(
        [Patch(facecolor=color, edgecolor="0.25", linewidth=0.4) for color in colors],
        [name for name, _ in entries],
        ncols=columns,
        loc="upper center",
        bbox_to_anchor=(0.5, height),
        frameon=False,
        fontsize=_LEGEND_PT,
        handlelength=1.0,
        handleheight=1.0,
        handletextpad=0.4,
        columnspacing=1.1,
        borderaxespad=0.15,
        borderpad=0.1,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar in a name is a dollar
