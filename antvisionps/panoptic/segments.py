"""The segments of a panoptic map: what describes them, and how they are measured over the map's runs."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet


class Segment(NamedTuple):  # made in two thirds of the time of a frozen dataclass
    """One region of a panoptic map, as its JSON describes it."""

    segment_id: int
    category_id: int
    area_px: int
    bbox_xywh: tuple[int, int, int, int]
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class PanopticImage:
    """One photo and its panoptic map; file names are relative to the split's folders."""

    image_id: int
    file_name: str
    panoptic_file_name: str
    height: int
    width: int
    segments: tuple[Segment, ...]


def class_index_map(segment_ids: np.ndarray, image: PanopticImage, categories: CategorySet) -> np.ndarray:
    """(H, W) uint8 class indices, VOID_CLASS_INDEX where void. A crowd's pixels have its class."""
    # Stored one higher, so that the ids nobody lists (0 in fresh memory) wrap around to 255 = VOID_CLASS_INDEX. Fresh
    # memory costs nothing until touched, so a table over all ids up to the largest beats a search.
    one_higher = np.zeros(int(segment_ids.max(initial=0)) + 1, dtype=np.uint8)
    for segment in image.segments:
        if segment.segment_id < len(one_higher):
            one_higher[segment.segment_id] = categories.class_index(segment.category_id) + 1
    return one_higher[segment_ids] - np.uint8(1)


def measure_segments(
    segment_ids: np.ndarray, *, category_ids: Mapping[int, int], crowd_ids: Set[int] = frozenset()
) -> tuple[Segment, ...]:
    """The segments of a map with their areas and boxes, in ascending segment id; `category_ids` is keyed by segment id.

    Raises KeyError when the map holds an id that `category_ids` lacks.
    """
    starts = run_starts(segment_ids)
    ids = segment_ids.ravel()[starts]
    return measure_runs(ids, starts, hw=segment_ids.shape, category_ids=category_ids, crowd_ids=crowd_ids)


def run_starts(*maps: np.ndarray) -> np.ndarray:
    """(R,) the flat index at which each run begins of pixels of a row on which every (H, W) map is constant.

    In raster order. A map has fifty times fewer runs than pixels, so what is counted over runs costs little.
    """
    starts_here = np.zeros(maps[0].size, dtype=bool)
    for flat in (one.ravel() for one in maps):
        starts_here[1:] |= flat[1:] != flat[:-1]
    starts_here.reshape(maps[0].shape)[:, 0] = True
    return np.flatnonzero(starts_here)


def measure_runs(
    ids: np.ndarray,
    starts: np.ndarray,
    *,
    hw: tuple[int, ...],
    category_ids: Mapping[int, int],
    crowd_ids: Set[int] = frozenset(),
) -> tuple[Segment, ...]:
    """`measure_segments` of a map of size hw whose runs, as `run_starts` finds them, are of the segments ids (R,)."""
    height, width = hw
    ys = starts // width
    x_starts = starts - ys * width
    x_ends = x_starts + np.diff(starts, append=height * width)
    # numpy sorts 16-bit integers by radix, ten times as fast as wider ones.
    order = np.argsort(ids.astype(np.uint16) if ids.max(initial=0) < 2**16 else ids, kind="stable")
    in_order = ids[order]
    first = np.append(0, np.flatnonzero(in_order[1:] != in_order[:-1]) + 1)
    # Within a segment the runs are in raster order still, so the first and the last tell its rows.
    last = np.append(first[1:], len(order)) - 1
    y0, y1 = ys[order[first]], ys[order[last]] + 1
    x0, x1 = np.minimum.reduceat(x_starts[order], first), np.maximum.reduceat(x_ends[order], first)
    areas = np.add.reduceat((x_ends - x_starts)[order], first)
    return tuple(
        Segment(segment_id, category_ids[segment_id], area, (x, y, right - x, bottom - y), segment_id in crowd_ids)
        for segment_id, area, x, y, right, bottom in np.stack([in_order[first], areas, x0, y0, x1, y1], axis=1).tolist()
        if segment_id != VOID_SEGMENT_ID
    )


def count_pixels(segment_ids: np.ndarray, ascending_ids: list[int]) -> list[int]:
    """The pixels of each of these segments, counted over runs; every other pixel is void."""
    flat = segment_ids.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    positions = np.searchsorted([VOID_SEGMENT_ID, *ascending_ids], flat[starts])
    lengths = np.diff(starts, append=flat.size)
    areas: list[int] = np.bincount(positions, lengths, minlength=1 + len(ascending_ids)).astype(np.int64).tolist()
    return areas[1:]
