"""A legend beside a picture: a swatch and a name for each category that appears."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from antvisionps.panoptic.categories import CategorySet

_BACKGROUND_RGB, _INK_RGB = (255, 255, 255), (30, 30, 30)
_MIN_SIDE_PX = 480
_MIN_FONT_PX, _FONT_FRAC = 14, 1 / 40


def legend_entries(category_ids: Iterable[int], categories: CategorySet) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, RGB) of these categories, each once, in class order."""
    wanted = set(category_ids)
    return [(c.name, c.color_rgb) for c in categories.categories if c.category_id in wanted]


def enlarge_small(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) enlarged by the whole factor that makes its long side at least 480 pixels; mostly it is 1."""
    factor = -(-_MIN_SIDE_PX // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def with_legend(picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """(H, W', 3) uint8 RGB: the picture (H, W, 3) with the legend at its right, in columns as tall as the picture."""
    if not entries:
        return picture
    height = picture.shape[0]
    font_px = max(_MIN_FONT_PX, round(max(picture.shape[:2]) * _FONT_FRAC))
    row_px = round(1.7 * font_px)
    font = ImageFont.load_default(font_px)
    rows = max(1, height // row_px)
    columns = [entries[first : first + rows] for first in range(0, len(entries), rows)]
    strips = [picture] + [_draw_column(column, font, font_px, row_px, height) for column in columns]
    return np.concatenate(strips, axis=1)


def _draw_column(
    entries: Sequence[tuple[str, tuple[int, int, int]]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    font_px: int,
    row_px: int,
    height: int,
) -> np.ndarray:
    text_px = max(round(font.getlength(name)) for name, _ in entries)
    strip = Image.new("RGB", (3 * font_px + text_px, height), _BACKGROUND_RGB)
    draw = ImageDraw.Draw(strip)
    for row, (name, color) in enumerate(entries):
        top = row * row_px + (row_px - font_px) // 2
        left = font_px // 2
        draw.rectangle((left, top, left + font_px, top + font_px), fill=color, outline=_INK_RGB)
        draw.text((left + 1.5 * font_px, top + font_px / 2), name, fill=_INK_RGB, font=font, anchor="lm")
    return np.asarray(strip)
