"""The inner loop of pasting instances into a panoptic map, run by run, compiled."""

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

    `panoptic/rle.py` describes the format.
    """
    place, number, stop, found = 0, 0, 0, 0
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
        if length < 0 or stop + length > pixels:
            return -1
        if number % 2 == 1 and length > 0:
            runs[found, 0], runs[found, 1] = stop, stop + length
            found += 1
        stop += length
        two_before, before = before, length
        number += 1
    return found if stop == pixels else -1


@inlined
def _is_free(owner: Any, may_take: Any) -> Any:
    """Whether a mask may take an owner's pixel; may_take (ids,) says whose, or is empty: nobody's."""
    return may_take[owner] if len(may_take) else owner == 0


@inlined
def _count_pixels(ids: Any, runs: Any, found: Any, may_take: Any) -> Any:
    """How many pixels the mask has, and how many it may take."""
    area, free = 0, 0
    for run in range(found):
        part = ids[runs[run, 0] : runs[run, 1]]
        area += len(part)
        for pixel in range(len(part)):
            free += _is_free(part[pixel], may_take)
    return area, free


@inlined
def _take_pixels(ids: Any, runs: Any, found: Any, may_take: Any, mask_id: Any) -> None:
    for run in range(found):
        part = ids[runs[run, 0] : runs[run, 1]]
        for pixel in range(len(part)):
            part[pixel] = mask_id if _is_free(part[pixel], may_take) else part[pixel]


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
    may_take = np.zeros(len(areas_px) + 1 if len(lies_on) else 0, np.bool_)
    count = 0
    for mask in range(len(areas_px)):
        found = _read_runs(codes[first_code[mask] : first_code[mask + 1]], len(ids), runs)
        if found < 0:
            return mask
        if len(lies_on):
            may_take[0] = True
            for other in range(count):
                may_take[other + 1] = lies_on[mask, pasted[other]]
        area, free = _count_pixels(ids, runs, found, may_take)
        if area != areas_px[mask]:
            return mask
        free_px[mask] = free
        if area > 0 and (area - free) / area > max_overlap_frac:
            fates[mask] = OVERLAPPED
        elif free == 0:
            fates[mask] = EMPTY
        else:
            fates[mask] = PASTED
            pasted[count] = mask
            count += 1
            _take_pixels(ids, runs, found, may_take, count)
    return ALL_READ
