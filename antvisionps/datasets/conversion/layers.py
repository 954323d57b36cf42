"""The rule by which regions become a panoptic map: things over stuff, larger instances below smaller ones.

Annotators outline things whole, so their regions overlap, and what is smaller is mostly in front. Crowds lie below
single things, as their outlines are rough. What nothing covers is void.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from antvisionps.datasets.instance_ids import SegmentMap
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import Instance
from antvisionps.panoptic.rle import MaskRuns, parse_runs


class LayeredMap(NamedTuple):
    """A panoptic map; the pixels that more than one thing claims, crowds left aside; the things without a pixel of
    their own, which it lacks."""

    map: SegmentMap
    overlap_px: int
    hidden: int


def empty_map(height: int, width: int) -> SegmentMap:
    return SegmentMap(np.zeros((height, width), dtype=np.int32), {}, set())


def lay_regions(regions: Sequence[Instance], categories: CategorySet, below: SegmentMap) -> LayeredMap:
    """The map that regions (category, whether it is a crowd, COCO compressed counts) give on top of another one.

    Regions of equal size lie in their order, the later one on top. All regions of a stuff category are one segment. A
    new segment's id is the next free one.
    """
    height, width = below.segment_ids.shape
    runs = parse_runs([rle for _, _, rle in regions], height=height, width=width)
    canvas = np.ascontiguousarray(below.segment_ids.T)
    category_ids, crowd_ids = dict(below.category_ids), set(below.crowd_ids)
    segment_of_stuff = {one: segment for segment, one in category_ids.items() if one not in categories.thing_ids}
    things = set()
    for index in _bottom_to_top(regions, runs.areas_px(), categories.thing_ids):
        category_id, is_crowd, _ = regions[index]
        segment_id = max(category_ids, default=0) + 1
        if category_id in categories.thing_ids:
            things.add(segment_id)
            crowd_ids |= {segment_id} if is_crowd else set()
        else:
            segment_id = segment_of_stuff.setdefault(category_id, segment_id)
        category_ids[segment_id] = category_id
        _paint(canvas, runs, index, segment_id)
    segment_ids = np.ascontiguousarray(canvas.T)
    return LayeredMap(
        SegmentMap(segment_ids, category_ids, crowd_ids),
        overlap_px=_overlap_px(regions, runs, categories.thing_ids),
        hidden=len(things - {*np.unique(segment_ids).tolist()}),
    )


def _bottom_to_top(regions: Sequence[Instance], areas_px: np.ndarray, thing_ids: Collection[int]) -> list[int]:
    """Stuff, crowds, single things; the larger ones of each first."""

    def key(index: int) -> tuple[bool, bool, int]:
        category_id, is_crowd, _ = regions[index]
        is_thing = category_id in thing_ids
        return is_thing, is_thing and not is_crowd, -int(areas_px[index])

    return sorted(range(len(regions)), key=key)


def _paint(canvas: np.ndarray, runs: MaskRuns, index: int, value: int) -> None:
    """`canvas` is (W, H), as crops are."""
    left, top, crop = runs.crop(index)
    canvas[left : left + crop.shape[0], top : top + crop.shape[1]][crop] = value


def _overlap_px(regions: Sequence[Instance], runs: MaskRuns, thing_ids: Collection[int]) -> int:
    claims = np.zeros((runs.width, runs.height), dtype=np.uint16)
    for index, (category_id, is_crowd, _) in enumerate(regions):
        if category_id in thing_ids and not is_crowd:
            left, top, crop = runs.crop(index)
            claims[left : left + crop.shape[0], top : top + crop.shape[1]] += crop
    return int((claims > 1).sum())
