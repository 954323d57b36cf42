"""The inner loops of semantic averaging, compiled.

As numpy operations, each of which goes over all classes' planes once more, average and argmax took a third of the time
of stage `fuse`; so they take a third of that. One pass goes down the rows of the grid and holds two of them, which stay
in the processor's cache.

Interpolation on the grid is low + (high - low) · frac, rounded twice, which is what OpenCV's resize does where it has
Intel's IPP and AVX2, and here every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from antvisionps.compiled import compiled, filled, frozen, inlined

ONE = np.float32(1)
LESS_THAN_ALL = np.float32(-np.inf)

_CELLS, _PLANES = frozen("uint8", 1), frozen("int64", 2)
_WEIGHTS, _COLUMNS, _IS_ON_GRID = frozen("float32", 1), frozen("int64", 1), frozen("boolean", 1)
_AROUND, _FRACS = frozen("uint32", 3), frozen("float32", 2)
_SUMMED = (_CELLS, _PLANES, _WEIGHTS, _COLUMNS, _IS_ON_GRID, _AROUND, _FRACS, _AROUND, _FRACS)
_FIRST, _FRAC, _LEFT, _CLASSES = frozen("int64", 1), frozen("float32", 1), frozen("uint32", 1), frozen("uint8", 1)
_SHOWN = (_FIRST, _FRAC, _FIRST, _FRAC, _LEFT, _CLASSES)


def _generate_multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


_multiply_add: Any = intrinsic(_generate_multiply_add)
"""a · b + c in float32, rounded once."""


@inlined
def _between(low: Any, high: Any, frac: Any) -> Any:
    return _multiply_add(high - low, frac, low)


@inlined
def _stretch(row: Any, low: Any, high: Any, frac: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = _between(row[low[x]], row[high[x]], frac[x])


@inlined
def _sum_row(
    row: Any,
    cells: Any,
    planes: Any,
    weights: Any,
    source_columns: Any,
    is_on_grid: Any,
    rows_around: Any,
    row_fracs: Any,
    columns_around: Any,
    column_fracs: Any,
    weighted: Any,
    stretched: Any,
    held: Any,
    sums: Any,
) -> None:
    """sums (K, columns) of one row. `stretched` (P, 2, columns) keeps the two last rows of each plane that were brought
    to the result's columns, `held` (P, 2) says which they are."""
    for plane in range(len(planes)):
        first, pitch, end, place, is_first = planes[plane]
        weight, total = weights[end], sums[place]
        if is_on_grid[end]:
            begin = first + row * pitch
            source = cells[begin : begin + len(total)]
            if is_first:
                for x in range(len(total)):
                    total[x] = np.float32(source[x]) * weight
            else:
                for x in range(len(total)):
                    total[x] += np.float32(source[x]) * weight
            continue
        above, below = np.int64(rows_around[end, 0, row]), np.int64(rows_around[end, 1, row])
        for wanted, other in ((above, below), (below, above)):
            if held[plane, 0] != wanted and held[plane, 1] != wanted:
                slot = 1 if held[plane, 0] == other else 0
                begin = first + wanted * pitch
                source = cells[begin : begin + source_columns[end]]
                for x in range(len(source)):
                    weighted[x] = np.float32(source[x]) * weight
                _stretch(
                    *(weighted, columns_around[end, 0], columns_around[end, 1], column_fracs[end]),
                    stretched[plane, slot],
                )
                held[plane, slot] = wanted
        upper = stretched[plane, 0 if held[plane, 0] == above else 1]
        lower = stretched[plane, 0 if held[plane, 0] == below else 1]
        frac = row_fracs[end, row]
        if is_first:
            for x in range(len(total)):
                total[x] = _between(upper[x], lower[x], frac)
        else:
            for x in range(len(total)):
                total[x] += _between(upper[x], lower[x], frac)


@inlined
def _find_largest(sums: Any, best: Any, leader: Any, winner: Any) -> None:
    """winner (columns,): which of sums (K, columns) is the largest, the first of equal ones.

    From one row of best (2, columns) to the other, and of leader, as a loop that updates one in place becomes masked
    stores, ten times as slow; and two classes at a time.
    """
    classes, columns = sums.shape
    for x in range(columns):
        best[0, x] = sums[0, x]
        leader[0, x] = 0
    now = 0
    for index in range(1, classes, 2):
        first, second = sums[index], sums[min(index + 1, classes - 1)]
        value_of, leader_of, next_value, next_leader = best[now], leader[now], best[1 - now], leader[1 - now]
        for x in range(columns):
            value, place = value_of[x], leader_of[x]
            is_larger = first[x] > value
            value = first[x] if is_larger else value
            place = np.int32(index) if is_larger else place
            is_larger = second[x] > value
            next_value[x] = second[x] if is_larger else value
            next_leader[x] = np.int32(index + 1) if is_larger else place
        now = 1 - now
    winner[:] = leader[now]


@inlined
def _find_candidates(upper: Any, lower: Any, left: Any, right: Any, largest: Any, candidates: Any) -> Any:
    """How many classes may be the largest somewhere in a quad; `candidates` says which, ascending: those whose largest
    corner is not below another's smallest."""
    floor = LESS_THAN_ALL
    for index in range(len(upper)):
        a, b, c, d = upper[index, left], upper[index, right], lower[index, left], lower[index, right]
        largest[index] = max(max(a, b), max(c, d))
        floor = max(floor, min(min(a, b), min(c, d)))
    found = 0
    for index in range(len(upper)):
        candidates[found] = index
        found += largest[index] >= floor
    return found


@inlined
def _fill_row_of_quad(
    upper: Any,
    lower: Any,
    left: Any,
    right: Any,
    frac_y: Any,
    frac_x: Any,
    candidates: Any,
    edges: Any,
    classes: Any,
    out: Any,
) -> None:
    rest_y = ONE - frac_y
    for rank in range(len(candidates)):
        index = candidates[rank]
        edges[0, rank] = upper[index, left] * rest_y + lower[index, left] * frac_y
        edges[1, rank] = upper[index, right] * rest_y + lower[index, right] * frac_y
    for x in range(len(out)):
        rest_x = ONE - frac_x[x]
        best, largest = LESS_THAN_ALL, 0
        for rank in range(len(candidates)):
            value = edges[0, rank] * rest_x + edges[1, rank] * frac_x[x]
            is_larger = value > best
            best = value if is_larger else best
            largest = candidates[rank] if is_larger else largest
        out[x] = classes[largest]


@inlined
def _fill_pixels(
    gap: Any,
    upper: Any,
    lower: Any,
    winner_above: Any,
    winner_below: Any,
    first_y: Any,
    frac_y: Any,
    first_x: Any,
    frac_x: Any,
    left_of_pixel: Any,
    classes: Any,
    candidates: Any,
    edges: Any,
    out: Any,
) -> None:
    """The pixels between two rows of the grid, of which sums (K, columns) and winners (columns,) are given."""
    first_row, stop_row = first_y[gap], first_y[gap + 1]
    if first_row == stop_row:
        return
    for x in range(len(left_of_pixel)):
        out[first_row, x] = classes[winner_above[left_of_pixel[x]]]
    for y in range(first_row + 1, stop_row):
        out[y] = out[first_row]
    columns = len(winner_above)
    for quad in range(columns + 1):
        left, right = max(quad - 1, 0), min(quad, columns - 1)
        corner = winner_above[left]
        if (corner == winner_above[right]) & (corner == winner_below[left]) & (corner == winner_below[right]):
            continue
        first_column, stop_column = first_x[quad], first_x[quad + 1]
        if first_column == stop_column:
            continue
        found = _find_candidates(upper, lower, left, right, edges[0], candidates)
        for y in range(first_row, stop_row):
            _fill_row_of_quad(
                *(upper, lower, left, right, frac_y[y], frac_x[first_column:stop_column]),
                *(candidates[:found], edges, classes, out[y, first_column:stop_column]),
            )


@compiled(types.void(*_SUMMED, filled("float32", 3)))
def sum_planes(
    cells: Any,
    planes: Any,
    weights: Any,
    source_columns: Any,
    is_on_grid: Any,
    rows_around: Any,
    row_fracs: Any,
    columns_around: Any,
    column_fracs: Any,
    sums: Any,
) -> None:
    """sums (K, rows, columns), zero at first: the weighted sum of the planes of each class.

    cells (n,) 8-bit planes behind each other · planes (P, 5): where each begins, cells from row to row, end, class, and
    whether it is the first of its class. Of the ends: weights (E,), source_columns (E,), is_on_grid (E,) whether their
    cells are the result's. Of the others: rows_around (E, 2, rows), the source's rows around each row of the result,
    row_fracs (E, rows), how far that is from the first to the second, and the same of the columns.
    """
    columns = sums.shape[2]
    weighted = np.empty(source_columns.max(), np.float32)
    stretched = np.empty((len(planes), 2, columns), np.float32)
    held = np.full((len(planes), 2), -1)
    total = np.zeros((len(sums), columns), np.float32)
    for row in range(sums.shape[1]):
        _sum_row(
            *(row, cells, planes, weights, source_columns, is_on_grid, rows_around, row_fracs),
            *(columns_around, column_fracs, weighted, stretched, held, total),
        )
        sums[:, row] = total


@compiled(types.void(*_SUMMED, *_SHOWN, filled("uint8", 2)))
def argmax_of_planes(
    cells: Any,
    planes: Any,
    weights: Any,
    source_columns: Any,
    is_on_grid: Any,
    rows_around: Any,
    row_fracs: Any,
    columns_around: Any,
    column_fracs: Any,
    first_y: Any,
    frac_y: Any,
    first_x: Any,
    frac_x: Any,
    left_of_pixel: Any,
    classes: Any,
    out: Any,
) -> None:
    """`argmax_of_sums` of what `sum_planes` gives, without all of it at once."""
    rows, columns = rows_around.shape[2], columns_around.shape[2]
    weighted = np.empty(source_columns.max(), np.float32)
    stretched = np.empty((len(planes), 2, columns), np.float32)
    held = np.full((len(planes), 2), -1)
    sums = np.zeros((2, len(classes), columns), np.float32)
    best, leader = np.empty((2, columns), np.float32), np.empty((2, columns), np.int32)
    winner = np.empty((2, columns), np.int32)
    candidates, edges = np.empty(len(classes), np.int64), np.empty((2, len(classes)), np.float32)
    for gap in range(rows + 1):
        above, below = (max(gap, 1) - 1) % 2, min(gap, rows - 1) % 2
        if gap < rows:
            _sum_row(
                *(gap, cells, planes, weights, source_columns, is_on_grid, rows_around, row_fracs),
                *(columns_around, column_fracs, weighted, stretched, held, sums[below]),
            )
            _find_largest(sums[below], best, leader, winner[below])
        _fill_pixels(
            *(gap, sums[above], sums[below], winner[above], winner[below]),
            *(first_y, frac_y, first_x, frac_x, left_of_pixel, classes, candidates, edges, out),
        )


@compiled(types.void(frozen("float32", 3), *_SHOWN, filled("uint8", 2)))
def argmax_of_sums(
    sums: Any,
    first_y: Any,
    frac_y: Any,
    first_x: Any,
    frac_x: Any,
    left_of_pixel: Any,
    classes: Any,
    out: Any,
) -> None:
    """out (height, width): the class (K,) of the plane of sums (K, rows, columns) that is largest at each pixel, the
    first of equal ones.

    first_y (rows + 2,) is where the pixels of each gap of the grid begin, frac_y (height,) a pixel's way from the
    centre above to the one below; first_x and frac_x the same across; left_of_pixel (width,) the centre left of each.
    """
    rows, columns = sums.shape[1:]
    held = np.empty((2, len(sums), columns), np.float32)
    best, leader = np.empty((2, columns), np.float32), np.empty((2, columns), np.int32)
    winner = np.empty((2, columns), np.int32)
    candidates, edges = np.empty(len(classes), np.int64), np.empty((2, len(classes)), np.float32)
    for gap in range(rows + 1):
        above, below = (max(gap, 1) - 1) % 2, min(gap, rows - 1) % 2
        if gap < rows:
            held[below] = sums[:, gap]
            _find_largest(held[below], best, leader, winner[below])
        _fill_pixels(
            *(gap, held[above], held[below], winner[above], winner[below]),
            *(first_y, frac_y, first_x, frac_x, left_of_pixel, classes, candidates, edges, out),
        )


@compiled(
    types.void(
        *(frozen("float32", 2), frozen("uint32", 2), frozen("float32", 1), frozen("uint32", 2), frozen("float32", 1)),
        filled("float32", 2),
    )
)
def resample(plane: Any, rows_around: Any, row_fracs: Any, columns_around: Any, column_fracs: Any, out: Any) -> None:
    """out (rows, columns) between the rows_around (2, rows) and columns_around (2, columns) of a plane."""
    stretched, held = np.empty((2, out.shape[1]), np.float32), np.full(2, -1)
    for row in range(len(out)):
        above, below = np.int64(rows_around[0, row]), np.int64(rows_around[1, row])
        for wanted, other in ((above, below), (below, above)):
            if held[0] != wanted and held[1] != wanted:
                slot = 1 if held[0] == other else 0
                _stretch(plane[wanted], columns_around[0], columns_around[1], column_fracs, stretched[slot])
                held[slot] = wanted
        upper, lower = stretched[0 if held[0] == above else 1], stretched[0 if held[0] == below else 1]
        for x in range(out.shape[1]):
            out[row, x] = _between(upper[x], lower[x], row_fracs[row])
