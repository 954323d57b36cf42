"""The inner loops of the panoptic map, compiled: instances are pasted run by run, and the map is described in one pass.

As numpy operations on the crop of each instance and on the whole map they took a fifth of the time of stage `fuse`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from antvisionps.fusion.compiled import compiled, filled, frozen, inlined

PASTED, OVERLAPPED, EMPTY = 0, 1, 2
"""What became of a candidate."""

ALL_READ = -1

FIRST_CHARACTER, LAST_CHARACTER = 48, 48 + 63
CONTINUES, SIGN, PAYLOAD, BITS = 0x20, 0x10, 0x1F, 5
MAX_CHARACTERS = 7


@inlined
def _read_runs(codes: Any, pixels: Any, runs: Any) -> Any:
    """Number of runs of foreground of one mask, whose bounds go to runs (n, 2); -1 where the code is malformed.

    The format is told in `predictions/rle.py`.
    """
    place, number, end, found = 0, 0, 0, 0
    before, two_before = 0, 0
    while place < len(codes):
        value, shift, code = 0, 0, CONTINUES
        while code & CONTINUES:
            if place == len(codes) or shift == MAX_CHARACTERS * BITS:
                return -1
            code = int(codes[place]) - FIRST_CHARACTER
            if code < 0 or code > LAST_CHARACTER - FIRST_CHARACTER:
                return -1
            value |= (code & PAYLOAD) << shift
            shift += BITS
            place += 1
        if code & SIGN:
            value -= 1 << shift
        length = value + two_before if number > 2 else value
        if length < 0 or end + length > pixels:
            return -1
        if number % 2 == 1 and length > 0:
            runs[found, 0], runs[found, 1] = end, end + length
            found += 1
        end += length
        two_before, before = before, length
        number += 1
    return found if end == pixels else -1


@inlined
def _count_free(ids: Any, may_take: Any) -> Any:
    """How many of the pixels a mask may take; may_take (ids,) says whose, or is empty: nobody's."""
    free = 0
    if len(may_take):
        for pixel in range(len(ids)):
            free += may_take[ids[pixel]]
    else:
        for pixel in range(len(ids)):
            free += ids[pixel] == 0
    return free


@inlined
def _take_free(ids: Any, may_take: Any, mask_id: Any) -> None:
    if len(may_take):
        for pixel in range(len(ids)):
            ids[pixel] = mask_id if may_take[ids[pixel]] else ids[pixel]
    else:
        for pixel in range(len(ids)):
            ids[pixel] = mask_id if ids[pixel] == 0 else ids[pixel]


@inlined
def _paste(
    codes: Any,
    first_code: Any,
    areas_px: Any,
    lies_on: Any,
    max_overlap_frac: Any,
    ids: Any,
    free_px: Any,
    fates: Any,
    scratch: Any,
) -> Any:
    runs, pasted, may_take = scratch
    count = 0
    for mask in range(len(areas_px)):
        found = _read_runs(codes[first_code[mask] : first_code[mask + 1]], len(ids), runs)
        if found < 0:
            return mask
        for other in range(count if len(lies_on) else 0):
            may_take[other + 1] = lies_on[mask, pasted[other]]
        whose = may_take if len(lies_on) else may_take[:0]
        area, free = 0, 0
        for run in range(found):
            start, stop = runs[run, 0], runs[run, 1]
            area += stop - start
            free += _count_free(ids[start:stop], whose)
        if area != areas_px[mask]:
            return mask
        free_px[mask] = free
        if area == 0:
            fates[mask] = EMPTY
        elif (area - free) / area > max_overlap_frac:
            fates[mask] = OVERLAPPED
        elif free == 0:
            fates[mask] = EMPTY
        else:
            fates[mask] = PASTED
            pasted[count] = mask
            count += 1
            for run in range(found):
                _take_free(ids[runs[run, 0] : runs[run, 1]], whose, count)
    return ALL_READ


@compiled(
    *(
        types.int64(
            *(frozen("uint8", 1), frozen("int64", 1), frozen("int64", 1), frozen("boolean", 2), types.float64),
            *(filled(dtype, 1), filled("int64", 1), filled("int64", 1)),
        )
        for dtype in ("uint8", "int32")
    )
)
def paste_masks(
    codes: Any, first_code: Any, areas_px: Any, lies_on: Any, max_overlap_frac: Any, ids: Any, free_px: Any, fates: Any
) -> int:
    """Pastes N masks one by one into ids (pixels,), column by column and 0 at first, the n-th that is pasted as n.

    codes are their RLEs behind each other, mask i's from first_code[i] on; areas_px (N,) what they should cover;
    lies_on (N, N) whether a mask may also take what another has taken, (0, 0) for never. free_px (N,) are the pixels it
    could take, fates (N,) PASTED, OVERLAPPED (more than max_overlap_frac of it was taken) or EMPTY. Returns the first
    mask that is malformed or of another area, and stops there, else ALL_READ.
    """
    runs = np.empty((len(codes), 2), np.int64)
    pasted = np.zeros(len(areas_px) + 1, np.int64)
    may_take = np.zeros(len(areas_px) + 1, np.bool_)
    may_take[0] = True
    scratch = (runs, pasted, may_take)
    return _paste(codes, first_code, areas_px, lies_on, max_overlap_frac, ids, free_px, fates, scratch)


@inlined
def _find_runs(maps: Any, is_last: Any, eights: Any, found: Any) -> Any:
    owners, free_classes, classes = maps
    lengths, run_owners, run_classes, area_of_class, free_of_class = found
    next_owners, next_free_classes, next_classes = owners[1:], free_classes[1:], classes[1:]
    for pixel in range(len(next_owners)):
        is_last[pixel] = (
            (owners[pixel] != next_owners[pixel])
            | (free_classes[pixel] != next_free_classes[pixel])
            | (classes[pixel] != next_classes[pixel])
        )
    is_last[len(owners) - 1] = 1
    count, start = 0, 0
    for pixel in range(len(owners)):
        if is_last[pixel]:
            length = pixel + 1 - start
            lengths[count], run_owners[count], run_classes[count] = length, owners[pixel], free_classes[pixel]
            area_of_class[classes[pixel]] += length
            if owners[pixel] == 0:
                free_of_class[free_classes[pixel]] += length
            count += 1
            start = pixel + 1
    return count


@compiled(
    *(
        types.int64(
            *(frozen(dtype, 1), frozen("uint8", 1), frozen("uint8", 1)),
            *(filled("int32", 1), filled("int32", 1), filled("uint8", 1), filled("int64", 1), filled("int64", 1)),
        )
        for dtype in ("uint8", "int32")
    )
)
def find_common_runs(
    owners: Any,
    free_classes: Any,
    classes: Any,
    lengths: Any,
    run_owners: Any,
    run_classes: Any,
    area_of_class: Any,
    free_of_class: Any,
) -> int:
    """Number of runs on which owners, free_classes and classes (pixels,) are constant; lengths, run_owners and
    run_classes (pixels,) begin with theirs. area_of_class (256,) are the pixels of each class, free_of_class those of
    each free class where the owner is 0."""
    pixels = len(owners)
    is_last = np.zeros(-(-pixels // 8) * 8, np.uint8)
    maps, found = (owners, free_classes, classes), (lengths, run_owners, run_classes, area_of_class, free_of_class)
    return _find_runs(maps, is_last, is_last.view(np.uint64), found)


@inlined
def _number(
    lengths: Any, owners: Any, classes: Any, segment_of_class: Any, width: Any, found: Any, measures: Any
) -> Any:
    segment_lengths, segment_of_run = found
    count, start = 0, 0
    for run in range(len(lengths)):
        segment_id = owners[run] if owners[run] else segment_of_class[classes[run]]
        stop = start + lengths[run]
        if count and segment_of_run[count - 1] == segment_id:
            segment_lengths[count - 1] += lengths[run]
        else:
            segment_lengths[count], segment_of_run[count] = lengths[run], segment_id
            count += 1
        top, bottom = start // width, (stop - 1) // width
        left, right = (start % width, (stop - 1) % width) if top == bottom else (0, width - 1)
        measure = measures[segment_id]
        measure[0] += lengths[run]
        measure[1], measure[2] = min(measure[1], left), min(measure[2], top)
        measure[3], measure[4] = max(measure[3], right + 1), max(measure[4], bottom + 1)
        start = stop
    return count


@compiled(
    types.int64(
        *(frozen("int32", 1), frozen("int32", 1), frozen("uint8", 1), frozen("int32", 1), types.int64),
        *(filled("int32", 1), filled("int32", 1), filled("int64", 2)),
    )
)
def number_runs(
    lengths: Any,
    owners: Any,
    classes: Any,
    segment_of_class: Any,
    width: Any,
    segment_lengths: Any,
    segment_of_run: Any,
    measures: Any,
) -> int:
    """Gives each run of a map of `width` its owner's number, or without one its class's, and joins equal neighbours.

    Number of runs of that map, with which segment_lengths and segment_of_run begin. measures (ids, 5): of each id its
    pixels, and the first column and row and the last ones that it has, plus one; (0, width, height, 0, 0) at first.
    """
    return _number(lengths, owners, classes, segment_of_class, width, (segment_lengths, segment_of_run), measures)
