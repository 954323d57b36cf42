"""The inner loop of reading COCO's compressed run lengths, compiled; `rle.py` tells the format."""

from typing import Any

from numba import types

from antvisionps.core.compiled import compiled, filled, frozen, inlined

FIRST_CHARACTER, LAST_CODE = 48, 63
CONTINUES, SIGN, PAYLOAD, BITS = 0x20, 0x10, 0x1F, 5
MAX_CHARACTERS = 7  # 35 bits: no image has more pixels


@inlined
def _read_number(codes: Any, place: Any, end: Any) -> Any:
    """The number at a place, and the place behind it, -1 where it is malformed."""
    value, shift, code = 0, 0, CONTINUES
    while code & CONTINUES:
        if place == end or shift == MAX_CHARACTERS * BITS:
            return 0, -1
        code = int(codes[place]) - FIRST_CHARACTER
        if code < 0 or code > LAST_CODE:
            return 0, -1
        value |= (code & PAYLOAD) << shift
        shift += BITS
        place += 1
    if code & SIGN:
        value -= 1 << shift
    return value, place


@compiled(types.void(*(frozen(dtype, 1) for dtype in ("uint8", "int64")), *(filled("int64", 1) for _ in range(4))))
def read_runs(codes: Any, first_code: Any, starts: Any, stops: Any, first_run: Any, sizes: Any) -> None:
    """Fills starts and stops with the runs of foreground of N masks, mask i's from first_run[i] on. codes: their RLEs
    behind each other, mask i's from first_code[i] on; sizes (N,) are the pixels of each, -1 of a malformed one."""
    found = 0
    for mask in range(len(sizes)):
        place, end = first_code[mask], first_code[mask + 1]
        size, number, before, two_before = 0 if place < end else -1, 0, 0, 0
        while size >= 0 and place < end:
            length, place = _read_number(codes, place, end)
            length += two_before if number > 2 else 0
            if place < 0 or length < 0:
                size = -1
                continue
            if number % 2 == 1 and length > 0:
                starts[found], stops[found] = size, size + length
                found += 1
            size += length
            two_before, before = before, length
            number += 1
        sizes[mask], first_run[mask + 1] = size, found
