"""The inner loop of pasting instances into a panoptic map, run by run, compiled."""

from typing import Any

import numpy as np
from numba import types

from antvisionps.core.compiled import compiled, filled, frozen, inlined

PASTED, OVERLAPPED, EMPTY = 0, 1, 2
"""What became of a candidate."""


@inlined
def _is_free(owner: Any, may_take: Any) -> Any:
    """Whether a mask may take an owner's pixel; may_take (ids,) says whose, or is empty: nobody's."""
    return may_take[owner] if len(may_take) else owner == 0


@inlined
def _count_pixels(ids: Any, starts: Any, stops: Any, may_take: Any) -> Any:
    """How many pixels the mask has, and how many it may take."""
    area, free = 0, 0
    for run in range(len(starts)):
        part = ids[starts[run] : stops[run]]
        area += len(part)
        for pixel in range(len(part)):
            free += _is_free(part[pixel], may_take)
    return area, free


@inlined
def _take_pixels(ids: Any, starts: Any, stops: Any, may_take: Any, mask_id: Any) -> None:
    for run in range(len(starts)):
        part = ids[starts[run] : stops[run]]
        for pixel in range(len(part)):
            part[pixel] = mask_id if _is_free(part[pixel], may_take) else part[pixel]


@compiled(
    *(
        types.void(
            *(frozen("int64", 1), frozen("int64", 1), frozen("int64", 1), frozen("boolean", 2), types.float64),
            *(filled(dtype, 1), filled("int64", 1), filled("int64", 1)),
        )
        for dtype in ("uint8", "int32")
    )
)
def paste_masks(
    starts: Any, stops: Any, first_run: Any, lies_on: Any, max_overlap_frac: Any, ids: Any, free_px: Any, fates: Any
) -> None:
    """Pastes N masks one by one into ids (pixels,), column by column and 0 at first, the n-th that is pasted as n.

    starts, stops and first_run are theirs as of `MaskRuns`; lies_on (N, N) whether a mask may also take what another
    has taken, (0, 0) for never. free_px (N,) are the pixels it could take, fates (N,) PASTED, OVERLAPPED (more than
    max_overlap_frac of it was taken) or EMPTY.
    """
    masks = len(free_px)
    pasted = np.zeros(masks + 1, np.int64)
    may_take = np.zeros(masks + 1 if len(lies_on) else 0, np.bool_)
    count = 0
    for mask in range(masks):
        first, stop = first_run[mask], first_run[mask + 1]
        if len(lies_on):
            may_take[0] = True
            for other in range(count):
                may_take[other + 1] = lies_on[mask, pasted[other]]
        area, free = _count_pixels(ids, starts[first:stop], stops[first:stop], may_take)
        free_px[mask] = free
        if area > 0 and (area - free) / area > max_overlap_frac:
            fates[mask] = OVERLAPPED
        elif free == 0:
            fates[mask] = EMPTY
        else:
            fates[mask] = PASTED
            pasted[count] = mask
            count += 1
            _take_pixels(ids, starts[first:stop], stops[first:stop], may_take, count)
