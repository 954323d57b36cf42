"""Pictures of one image's predictions, with legends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from antvisionps.core.atomic import atomic_file
from antvisionps.report.legend import enlarge_small, legend_entries, with_legend
from antvisionps.report.overlays import boundaries, encode_picture

if TYPE_CHECKING:
    from antvisionps.inspection.predictions import Instance, Semantic

_MASK_OPACITY = 0.45
_LABEL_PX = 12


def write_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB as PNG."""
    with atomic_file(path) as unfinished:
        unfinished.write_bytes(encode_picture(picture))


def draw_semantic(semantic: Semantic) -> np.ndarray:
    """The likeliest class of every pixel in its colour, black lines between classes, and a legend."""
    class_map = semantic.class_map
    categories = semantic.all_categories
    colors = np.array([category.color_rgb for category in categories.categories], dtype=np.uint8)
    picture = enlarge_small(colors[class_map])
    picture[boundaries(enlarge_small(class_map[..., None])[..., 0])] = 0
    present = (categories.categories[index].category_id for index in np.unique(class_map).tolist())
    return with_legend(picture, legend_entries(present, categories))


def draw_instances(photo: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """The photo (H, W, 3) with each instance's mask, box and score; the best score on top."""
    factor = enlarge_small(photo).shape[0] // photo.shape[0]
    picture = enlarge_small(photo).astype(np.float32)
    for instance in reversed(instances):
        mask = enlarge_small(instance.mask[..., None])[..., 0]
        color = np.array(instance.category.color_rgb, dtype=np.float32)
        picture[mask] += (color - picture[mask]) * _MASK_OPACITY
        picture[boundaries(mask.astype(np.int32)) & mask] = color
    canvas = Image.fromarray(np.rint(picture).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_LABEL_PX)
    for instance in reversed(instances):
        x, y, width, height = (factor * side for side in instance.box_xywh)
        corner = (x, max(0.0, y - 1.3 * _LABEL_PX))
        draw.rectangle((x, y, x + width, y + height), outline=instance.category.color_rgb, width=2)
        label = f"{instance.position} {instance.category.name} {instance.score:.2f}"
        draw.rectangle(draw.textbbox(corner, label, font=font), fill=instance.category.color_rgb)
        draw.text(corner, label, font=font, fill=_ink_on(instance.category.color_rgb))
    return np.asarray(canvas)


def _ink_on(color_rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out (luma of ITU-R BT.601)."""
    red, green, blue = color_rgb
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
