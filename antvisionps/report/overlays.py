"""Pictures of panoptic maps: category colours over the photo, instances of a category told apart by shade."""

from collections.abc import Sequence

import cv2
import numpy as np

from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import Segment
from antvisionps.report.legend import enlarge_small, legend_entries, with_legend

_OPACITY = 0.55
_SHADES = (1.0, 0.72, 1.25, 0.85, 1.12, 0.6)
_BOUNDARY_RGB = (255, 255, 255)
_CAPTION_HEIGHT_PX, _GAP_PX = 24, 4
_MIN_PANEL_WIDTH_PX, _MAX_PANEL_SIDE_PX = 256, 2048
_ROWS_AT_ONCE = 256
"""Tinted together, so that a large photo needs little more memory than its picture."""


def draw_overlay(
    photo: np.ndarray, segment_ids: np.ndarray, segments: Sequence[Segment], categories: CategorySet
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the photo (H, W, 3) tinted by segment_ids (H, W), with white lines between segments.

    Void keeps the photo, darkened. The n-th thing of a category in an image gets the n-th shade of its colour.
    """
    color_of_position = np.zeros((len(segments) + 1, 3), dtype=np.float32)
    # A segment may have no pixel where the map is shrunk.
    largest = max((segment.segment_id for segment in segments), default=0)
    position_of_id = np.zeros(max(largest, int(segment_ids.max(initial=0))) + 1, dtype=np.int32)
    seen: dict[int, int] = {}
    for position, segment in enumerate(sorted(segments, key=lambda segment: segment.segment_id), start=1):
        category = categories.by_id(segment.category_id)
        nth = seen.get(segment.category_id, 0)
        seen[segment.category_id] = nth + 1
        shade = _SHADES[nth % len(_SHADES)] if category.is_thing else 1.0
        color_of_position[position] = np.clip(np.array(category.color_rgb) * shade, 0, 255)
        position_of_id[segment.segment_id] = position
    picture = np.empty_like(photo)
    for top in range(0, len(photo), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        tint = color_of_position[position_of_id[segment_ids[rows]]]
        picture[rows] = np.rint(photo[rows] * (1 - _OPACITY) + tint * _OPACITY)
    picture[boundaries(segment_ids)] = _BOUNDARY_RGB
    return picture


def draw_panoptic(
    photo: np.ndarray, segment_ids: np.ndarray, segments: Sequence[Segment], categories: CategorySet
) -> np.ndarray:
    """The overlay of a panoptic map (H, W), with a legend."""
    overlay = draw_overlay(photo, segment_ids, segments, categories)
    entries = legend_entries((segment.category_id for segment in segments), categories)
    return with_legend(enlarge_small(overlay), entries)


def encode_picture(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as PNG."""
    png: bytes = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    return png


def boundaries(segment_ids: np.ndarray) -> np.ndarray:
    """(H, W) bool, the pixels whose right or lower neighbour is of another segment."""
    differs = np.zeros(segment_ids.shape, dtype=bool)
    differs[:, :-1] |= segment_ids[:, :-1] != segment_ids[:, 1:]
    differs[:-1] |= segment_ids[:-1] != segment_ids[1:]
    return differs


def panel_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) at which a picture of many panels shows one of this size: a large one smaller."""
    return shrunk_hw(hw, long_side_px=_MAX_PANEL_SIDE_PX)


def shrunk_hw(hw: tuple[int, int], *, long_side_px: int) -> tuple[int, int]:
    """(height, width), shrunk to the long side where it is larger."""
    factor = min(1.0, long_side_px / max(hw))
    return max(1, round(hw[0] * factor)), max(1, round(hw[1] * factor))


def shrink_photo(photo: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 at that smaller size; the photo itself at its own."""
    return photo if photo.shape[:2] == hw else cv2.resize(photo, hw[::-1], interpolation=cv2.INTER_AREA)


def shrink_map(segment_ids: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W) segment ids at that smaller size; the map itself at its own."""
    is_same = segment_ids.shape == hw
    return segment_ids if is_same else cv2.resize(segment_ids, hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """One RGB picture of (caption, RGB) panels of one size; small ones are enlarged by a whole factor."""
    columns = []
    for caption, picture in panels:
        factor = -(-_MIN_PANEL_WIDTH_PX // picture.shape[1])
        enlarged = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        strip = np.full((_CAPTION_HEIGHT_PX, enlarged.shape[1], 3), 255, dtype=np.uint8)
        cv2.putText(strip, caption, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        gap = np.full((strip.shape[0] + enlarged.shape[0], _GAP_PX, 3), 255, dtype=np.uint8)
        columns += [np.concatenate([strip, enlarged]), gap]
    return np.concatenate(columns[:-1], axis=1)
