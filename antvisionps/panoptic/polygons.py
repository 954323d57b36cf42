"""Outlines as masks, in COCO's rasterisation. A polygon is a list [x, y, x, y, x, y, ...] in pixels of the image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_NUMBERS = frozenset({int, float})


def is_flat(polygons: Sequence[Any]) -> bool:
    """Whether a list that should hold polygons is one itself."""
    return type(polygons[0]) in _NUMBERS


def encode_polygons(polygons: Sequence[Any], *, height: int, width: int) -> bytes | None:
    """COCO compressed counts of what is inside any of the polygons, each of which `has_area`; None without a pixel."""
    if not polygons:
        return None
    rles = coco_mask.frPyObjects(polygons, height, width)
    return non_empty(coco_mask.merge(rles)["counts"], height=height, width=width)


def non_empty(counts: bytes, *, height: int, width: int) -> bytes | None:
    return counts if coco_mask.area({"size": [height, width], "counts": counts}) else None


def has_area(polygon: Any, *, height: int, width: int) -> bool:
    """Not a point or a line. Raises ValueError on what is no polygon.

    Corners a little outside are cut off, as COCO has them; far ones would take any amount of memory.
    """
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError(f"expected polygons [x, y, x, y, x, y, ...], got {str(polygon)[:80]}")
    if not _NUMBERS.issuperset(map(type, polygon)):
        raise ValueError(f"expected corners that are numbers, got {str(polygon)[:80]}")
    for corners, side in ((polygon[0::2], width), (polygon[1::2], height)):
        low, high = min(corners, default=0), max(corners, default=0)
        if not (-side <= low and high <= 2 * side and math.isfinite(sum(corners))):  # min and max may pass over a NaN
            raise ValueError(f"expected corners in the image of {width}x{height} px, got {low} to {high}")
    return len(polygon) >= 6 and not _is_line(polygon)


def _is_line(polygon: list[float]) -> bool:
    x, y, x1, y1, x2, y2 = polygon[:6]
    if (x1 - x) * (y2 - y) != (x2 - x) * (y1 - y):
        return False
    corners = np.reshape(polygon, (-1, 2))
    return bool(np.linalg.matrix_rank(corners - corners[0]) < 2)
