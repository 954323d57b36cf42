"""The inner loops of semantic averaging, compiled.

Of most classes most planes can be left out: the argmax goes down the grid in bands of BLOCK_ROWS gaps between rows, in
blocks of as many columns, and in each block sums up and compares only what may be the largest class somewhere in it.
Inside a region that is one class, and nothing is summed; on a border it is a few. A look at the 8-bit planes tells:

- A class whose largest cell is below another's smallest is nowhere the largest.
- Let M be no more than what the largest class has at any corner in the block. At a point between four corners the
  classes that are the largest at these sum up to M or more, as each corner has one that brings its share of M. So one
  of the at most four has M / 4 or more, and a class that stays below that is nowhere the largest.

Both are exact: a class that is left out would have changed no pixel.

Interpolation on the grid is low + (high - low) · frac, rounded twice, which is what OpenCV's resize does where it has
Intel's IPP and AVX2, and here every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from antvisionps.fusion.compiled import compiled, filled, first_byte, frozen, inlined

ONE = np.float32(1)
LESS_THAN_ALL = np.float32(-np.inf)

BLOCK_ROWS, BLOCK_COLUMNS = 16, 16
LEVELS = 5
"""Widths of 1, 2, 4, 8 and 16 columns, two of which cover a block's BLOCK_COLUMNS + 1 corners."""

CORNERS = 4
SLACK = np.float32(1 + 2**-10)
"""More than rounding can add to the largest value of a class."""

_CELL_TYPES = ("uint8", "float32")
_PLANES, _WEIGHTS = frozen("int64", 2), frozen("float32", 1)
_COLUMNS, _IS_ON_GRID = frozen("int64", 1), frozen("boolean", 1)
_AROUND, _FRACS = frozen("uint32", 3), frozen("float32", 2)
_SUMMED = (_PLANES, _WEIGHTS, _COLUMNS, _IS_ON_GRID, _AROUND, _FRACS, _AROUND, _FRACS)
_FIRST, _FRAC, _CLASSES = frozen("int64", 1), frozen("float32", 1), frozen("uint8", 1)
_SHOWN = (_FIRST, _FRAC, _FIRST, _FRAC, _CLASSES)


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
def _copy(source: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = source[x]


@inlined
def _largest_of(values: Any) -> Any:
    """Where the largest stands, the first of equal ones."""
    largest = 0
    for place in range(1, len(values)):
        largest = place if values[place] > values[largest] else largest
    return largest


# Sums


@inlined
def _stretch(row: Any, low: Any, high: Any, frac: Any, weight: Any, out: Any) -> None:
    """out (columns,): the row times the weight, between its columns low and high."""
    for x in range(len(out)):
        out[x] = _between(np.float32(row[low[x]]) * weight, np.float32(row[high[x]]) * weight, frac[x])


@inlined
def _add_cells(row: Any, weight: Any, is_first: Any, total: Any) -> None:
    if is_first:
        for x in range(len(total)):
            total[x] = np.float32(row[x]) * weight
    else:
        for x in range(len(total)):
            total[x] += np.float32(row[x]) * weight


@inlined
def _add_between(upper: Any, lower: Any, frac: Any, is_first: Any, total: Any) -> None:
    if is_first:
        for x in range(len(total)):
            total[x] = _between(upper[x], lower[x], frac)
    else:
        for x in range(len(total)):
            total[x] += _between(upper[x], lower[x], frac)


@compiled(*(types.void(frozen(dtype, 1), *_SUMMED, filled("float32", 3)) for dtype in _CELL_TYPES))
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

    cells (n,) planes behind each other, 8 bits or float32, none negative · planes (P, 5): where each begins, cells from
    row to row, end, class, and whether it is the first of its class. Of the ends, of which one at least is on the grid:
    weights (E,), source_columns (E,), is_on_grid (E,) whether their cells are the result's. Of the others: rows_around
    (E, 2, rows), the source's rows around each row of the result, row_fracs (E, rows), how far that is from the first
    to the second, and the same of the columns.
    """
    rows, columns = sums.shape[1:]
    stretched = np.empty((2, columns), np.float32)
    for plane in range(len(planes)):
        first, pitch, end, place, is_first = planes[plane]
        if is_on_grid[end]:
            for row in range(rows):
                begin = first + row * pitch
                _add_cells(cells[begin : begin + columns], weights[end], is_first, sums[place, row])
            continue
        for row in range(rows):
            for side in range(2):
                begin = first + np.int64(rows_around[end, side, row]) * pitch
                _stretch(
                    *(cells[begin : begin + source_columns[end]], columns_around[end, 0], columns_around[end, 1]),
                    *(column_fracs[end], weights[end], stretched[side]),
                )
            _add_between(stretched[0], stretched[1], row_fracs[end, row], is_first, sums[place, row])


# What may be the largest class in each block


@inlined
def _find_most(cells: Any, first: Any, pitch: Any, top: Any, bottom: Any, most: Any) -> None:
    """most (levels, columns): in level k the largest cell of the 2^k columns from each on, of the rows top to bottom of
    a plane."""
    columns = most.shape[1]
    begin = first + top * pitch
    _copy(cells[begin : begin + columns], most[0])
    for row in range(top + 1, bottom + 1, 2):
        begin, next_begin = first + row * pitch, first + min(row + 1, bottom) * pitch
        one, two, total = cells[begin : begin + columns], cells[next_begin : next_begin + columns], most[0]
        for x in range(columns):
            larger = one[x] if one[x] > two[x] else two[x]
            total[x] = larger if larger > total[x] else total[x]
    width = 1
    for level in range(1, len(most)):
        one, two, total = most[level - 1, : columns - width], most[level - 1, width:], most[level]
        for x in range(len(one)):
            total[x] = one[x] if one[x] > two[x] else two[x]
        width *= 2


@inlined
def _most_of(most: Any, first: Any, last: Any) -> Any:
    """The largest of the columns first to last."""
    level, width = 0, 1
    while 2 * width <= last + 1 - first and level + 1 < len(most):
        level, width = level + 1, 2 * width
    largest = most[level, first]
    while first + width <= last:
        first = min(first + width, last + 1 - width)
        largest = max(largest, most[level, first])
    return largest


@inlined
def _least_of(cells: Any, first: Any, pitch: Any, top: Any, bottom: Any, left: Any, right: Any) -> Any:
    """The smallest cell of a plane in the rows top to bottom and columns left to right."""
    least = cells[first + top * pitch + left]
    for row in range(top, bottom + 1):
        begin = first + row * pitch
        for place in range(begin + left, begin + right + 1):
            least = cells[place] if cells[place] < least else least
    return least


@inlined
def _find_weakest(
    cells: Any, planes: Any, end: Any, top: Any, bottom: Any, columns: Any, strongest: Any, weakest: Any
) -> None:
    """weakest (columns,): the least, over the rows top to bottom, of what the end's strongest plane has there."""
    for row in range(top, bottom + 1):
        strongest[:] = 0
        for plane in range(len(planes)):
            if planes[plane, 2] == end:
                begin = planes[plane, 0] + row * planes[plane, 1]
                source = cells[begin : begin + columns]
                for x in range(columns):
                    strongest[x] = source[x] if source[x] > strongest[x] else strongest[x]
        if row == top:
            _copy(strongest, weakest)
        for x in range(columns):
            weakest[x] = strongest[x] if strongest[x] < weakest[x] else weakest[x]


@inlined
def _source_span(is_on_grid: Any, around: Any, first: Any, last: Any) -> Any:
    """The first and the last row, or column, of an end that the result's from first to last are made of."""
    if is_on_grid:
        return first, last
    return np.int64(around[0, first]), np.int64(around[1, last])


@inlined
def _find_candidates(summed: Any, corners: Any, found: Any, scratch: Any) -> None:
    """candidates (blocks, K) of the blocks between the corners' rows top and bottom; number_in (blocks,) says how many
    there are."""
    cells, planes, weights, source_columns, is_on_grid, rows_around, _, columns_around, _ = summed
    top, bottom, columns = corners
    candidates, number_in = found
    most, strongest, weakest, most_of_class = scratch
    for plane in range(len(planes)):
        end = planes[plane, 2]
        first_row, last_row = _source_span(is_on_grid[end], rows_around[end], top, bottom)
        of_plane = most[plane, :, : source_columns[end]]
        _find_most(cells, planes[plane, 0], planes[plane, 1], first_row, last_row, of_plane)
    lead = 0
    while not is_on_grid[lead]:
        lead += 1
    _find_weakest(cells, planes, lead, top, bottom, columns, strongest, weakest)
    for block in range(len(number_in)):
        left, right = max(block * BLOCK_COLUMNS - 1, 0), min((block + 1) * BLOCK_COLUMNS - 1, columns - 1)
        most_of_class[:] = 0
        for plane in range(len(planes)):
            end, place = planes[plane, 2], planes[plane, 3]
            first, last = _source_span(is_on_grid[end], columns_around[end], left, right)
            most_of_class[place] += np.float32(_most_of(most[plane], first, last)) * weights[end]
        likeliest, least = _largest_of(most_of_class), np.float32(0)
        for plane in range(len(planes)):
            begin, pitch, end, place, _ = planes[plane]
            if place == likeliest:
                first_row, last_row = _source_span(is_on_grid[end], rows_around[end], top, bottom)
                first, last = _source_span(is_on_grid[end], columns_around[end], left, right)
                of_plane = _least_of(cells, begin, pitch, first_row, last_row, first, last)
                least += np.float32(of_plane) * weights[end]
        of_lead = np.float32(_least_of(weakest, 0, 0, 0, 0, left, right)) * weights[lead]
        floor = max(least, of_lead / np.float32(CORNERS))
        number = 0
        for place in range(len(most_of_class)):
            candidates[block, number] = place
            number += most_of_class[place] * SLACK >= floor
        number_in[block] = number


@inlined
def _join_parts(candidates: Any, number_in: Any, columns: Any, parts: Any, parts_of: Any) -> None:
    """parts (K, blocks, 2): of each class, the columns, from and to, of neighbouring blocks in which it is one of
    several candidates; parts_of (K,) says how many there are."""
    parts_of[:] = 0
    for block in range(len(number_in)):
        start, stop = max(block * BLOCK_COLUMNS - 1, 0), min((block + 1) * BLOCK_COLUMNS, columns)
        for rank in range(number_in[block] if number_in[block] > 1 else 0):
            place = candidates[block, rank]
            number = parts_of[place]
            if number and parts[place, number - 1, 1] > start:
                parts[place, number - 1, 1] = stop
            else:
                parts[place, number, 0], parts[place, number, 1] = start, stop
                parts_of[place] = number + 1


# The argmax


@inlined
def _stretch_parts(summed: Any, corners: Any, parts: Any, parts_of: Any, stretched: Any) -> None:
    """stretched (P, source rows, columns): of planes on other grids what lies around the corners' rows."""
    cells, planes, weights, source_columns, is_on_grid, rows_around, _, columns_around, column_fracs = summed
    top, bottom, _ = corners
    for plane in range(len(planes)):
        begin, pitch, end, place, _ = planes[plane]
        if is_on_grid[end]:
            continue
        first_row, last_row = _source_span(False, rows_around[end], top, bottom)
        for number in range(parts_of[place]):
            start, stop = parts[place, number]
            for row in range(first_row, last_row + 1):
                first = begin + row * pitch
                _stretch(
                    *(cells[first : first + source_columns[end]], columns_around[end, 0, start:stop]),
                    *(columns_around[end, 1, start:stop], column_fracs[end, start:stop], weights[end]),
                    stretched[plane, row - first_row, start:stop],
                )


@inlined
def _sum_row(summed: Any, row: Any, top: Any, parts: Any, parts_of: Any, stretched: Any, sums: Any) -> None:
    """sums (K, columns) of one row, where a class has a part."""
    cells, planes, weights, _, is_on_grid, rows_around, row_fracs, _, _ = summed
    for place in range(len(parts_of)):
        for number in range(parts_of[place]):
            start, stop = parts[place, number]
            sums[place, start:stop] = 0  # for a class without a plane
    for plane in range(len(planes)):
        begin, pitch, end, place, is_first = planes[plane]
        for number in range(parts_of[place]):
            start, stop = parts[place, number]
            total = sums[place, start:stop]
            if is_on_grid[end]:
                first = begin + row * pitch
                _add_cells(cells[first + start : first + stop], weights[end], is_first, total)
            else:
                first_row = np.int64(rows_around[end, 0, top])
                upper = stretched[plane, np.int64(rows_around[end, 0, row]) - first_row, start:stop]
                lower = stretched[plane, np.int64(rows_around[end, 1, row]) - first_row, start:stop]
                _add_between(upper, lower, row_fracs[end, row], is_first, total)


@inlined
def _find_winners(
    sums: Any, candidates: Any, number_in: Any, parts: Any, parts_of: Any, best: Any, winners: Any
) -> None:
    """winners (columns,) of one row: which class's sum is the largest, the first of equal ones."""
    columns = len(winners)
    for block in range(len(number_in)):
        if number_in[block] == 1:
            start, stop = max(block * BLOCK_COLUMNS - 1, 0), min((block + 1) * BLOCK_COLUMNS, columns)
            winners[start:stop] = candidates[block, 0]
    best[:] = LESS_THAN_ALL
    for place in range(len(parts_of)):
        for number in range(parts_of[place]):
            start, stop = parts[place, number]
            total, most, winner = sums[place, start:stop], best[start:stop], winners[start:stop]
            for x in range(len(total)):
                is_larger = total[x] > most[x]
                most[x] = total[x] if is_larger else most[x]
                winner[x] = np.int32(place) if is_larger else winner[x]


@inlined
def _find_borders(above: Any, below: Any, is_border: Any) -> None:
    """is_border (quads,): whether the winners above and below (columns,) at its four corners are not the same."""
    last = len(above) - 1
    is_border[0], is_border[last + 1] = above[0] != below[0], above[last] != below[last]
    next_above, next_below = above[1:], below[1:]
    for x in range(last):
        here = above[x]
        is_border[x + 1] = (here != next_above[x]) | (here != below[x]) | (here != next_below[x])


@inlined
def _fill_row(winners: Any, classes: Any, first_x: Any, is_last: Any, eights: Any, out: Any) -> None:
    """out (width,): the class of the winner left of each pixel; before the first centre, of the first. `eights` is
    is_last seen as uint64, 0 beyond the columns + 1 that are used."""
    last = len(winners) - 1
    next_winners = winners[1:]
    for x in range(last):
        is_last[x] = winners[x] != next_winners[x]
    is_last[last], is_last[last + 1] = True, False
    start = 0
    for eight in range(len(eights)):
        rest = eights[eight]
        while rest:
            x = 8 * eight + first_byte(rest)
            rest &= rest - np.uint64(1)
            stop = first_x[x + 2]
            part, value = out[start:stop], classes[winners[x]]
            for pixel in range(len(part)):
                part[pixel] = value
            start = stop


@inlined
def _find_contenders(corners: Any, candidates: Any, places: Any, most: Any) -> Any:
    """How many of the candidates may be the largest between the four corners, with which places begin: those whose
    largest corner is not below another's smallest."""
    upper, lower, left, right = corners
    floor = LESS_THAN_ALL
    for rank in range(len(candidates)):
        place = candidates[rank]
        a, b, c, d = upper[place, left], upper[place, right], lower[place, left], lower[place, right]
        floor = max(floor, min(min(a, b), min(c, d)))
        most[rank] = max(max(a, b), max(c, d))
    found = 0
    for rank in range(len(candidates)):
        places[found] = candidates[rank]
        found += most[rank] * SLACK >= floor
    return found


@inlined
def _fill_quad_of_two(
    corners: Any, first: Any, second: Any, frac_y: Any, frac_x: Any, class_of_first: Any, class_of_second: Any, out: Any
) -> None:
    """As `_fill_quad` does where only two classes contend, the first one before the second."""
    upper, lower, left, right = corners
    a, b, c, d = upper[first, left], upper[first, right], lower[first, left], lower[first, right]
    e, f, g, h = upper[second, left], upper[second, right], lower[second, left], lower[second, right]
    for y in range(len(out)):
        rest_y = ONE - frac_y[y]
        first_left, first_right = a * rest_y + c * frac_y[y], b * rest_y + d * frac_y[y]
        second_left, second_right = e * rest_y + g * frac_y[y], f * rest_y + h * frac_y[y]
        for x in range(out.shape[1]):
            rest_x = ONE - frac_x[x]
            of_first = first_left * rest_x + first_right * frac_x[x]
            of_second = second_left * rest_x + second_right * frac_x[x]
            out[y, x] = class_of_second if of_second > of_first else class_of_first


@inlined
def _fill_quad(corners: Any, places: Any, frac_y: Any, frac_x: Any, classes: Any, edges: Any, out: Any) -> None:
    """out (rows, columns): the pixels between the four corners, where the classes at `places` contend."""
    upper, lower, left, right = corners
    for y in range(len(out)):
        rest_y = ONE - frac_y[y]
        for rank in range(len(places)):
            place = places[rank]
            edges[0, rank] = upper[place, left] * rest_y + lower[place, left] * frac_y[y]
            edges[1, rank] = upper[place, right] * rest_y + lower[place, right] * frac_y[y]
        for x in range(out.shape[1]):
            rest_x = ONE - frac_x[x]
            best, largest = LESS_THAN_ALL, 0
            for rank in range(len(places)):
                value = edges[0, rank] * rest_x + edges[1, rank] * frac_x[x]
                is_larger = value > best
                best = value if is_larger else best
                largest = places[rank] if is_larger else largest
            out[y, x] = classes[largest]


@inlined
def _fill_gap(gap: Any, shown: Any, sums: Any, winners: Any, found: Any, scratch: Any, out: Any) -> None:
    """The pixels between two rows of the grid, of which sums (2, K, columns) and winners (2, columns) are given."""
    first_y, frac_y, first_x, frac_x, classes = shown
    candidates, number_in = found
    places, edges, is_border, eights = scratch
    first_row, stop_row = first_y[gap], first_y[gap + 1]
    if first_row == stop_row:
        return
    rows, columns = len(first_y) - 2, winners.shape[1]
    above, below = (max(gap, 1) - 1) % 2, min(gap, rows - 1) % 2
    _fill_row(winners[above], classes, first_x, is_border, eights, out[first_row])
    for y in range(first_row + 1, stop_row):
        _copy(out[first_row], out[y])
    _find_borders(winners[above], winners[below], is_border)
    for eight in range(len(eights)):
        rest = eights[eight]
        while rest:
            quad = 8 * eight + first_byte(rest)
            rest &= rest - np.uint64(1)
            start, stop, block = first_x[quad], first_x[quad + 1], quad // BLOCK_COLUMNS
            if start == stop:
                continue
            corners = (sums[above], sums[below], max(quad - 1, 0), min(quad, columns - 1))
            number = _find_contenders(corners, candidates[block, : number_in[block]], places, edges[0])
            fracs = (frac_y[first_row:stop_row], frac_x[start:stop])
            pixels = out[first_row:stop_row, start:stop]
            if number == 2:
                first, second = places[0], places[1]
                _fill_quad_of_two(corners, first, second, *fracs, classes[first], classes[second], pixels)
            else:
                _fill_quad(corners, places[:number], *fracs, classes, edges, pixels)


@inlined
def _fill_map(summed: Any, shown: Any, found: Any, bounds: Any, parts: Any, held: Any, scratch: Any, out: Any) -> None:
    """The work of `argmax_of_planes` in the arrays that it allocated: a part of a kernel allocates nothing."""
    first_y = shown[0]
    parts_of_class, parts_of = parts
    stretched, sums, best, winners = held
    rows, columns = len(first_y) - 2, winners.shape[1]
    for first_gap in range(0, rows + 1, BLOCK_ROWS):
        stop_gap = min(first_gap + BLOCK_ROWS, rows + 1)
        corners = (max(first_gap - 1, 0), min(stop_gap - 1, rows - 1), columns)
        _find_candidates(summed, corners, found, bounds)
        _join_parts(found[0], found[1], columns, parts_of_class, parts_of)
        _stretch_parts(summed, corners, parts_of_class, parts_of, stretched)
        for gap in range(first_gap, stop_gap):
            for row in range(corners[0] if gap == first_gap else gap, min(gap, rows - 1) + 1):
                _sum_row(summed, row, corners[0], parts_of_class, parts_of, stretched, sums[row % 2])
                _find_winners(sums[row % 2], found[0], found[1], parts_of_class, parts_of, best, winners[row % 2])
            _fill_gap(gap, shown, sums, winners, found, scratch, out)


@compiled(*(types.void(frozen(dtype, 1), *_SUMMED, *_SHOWN, filled("uint8", 2)) for dtype in _CELL_TYPES))
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
    classes: Any,
    out: Any,
) -> None:
    """out (height, width): the class (K,) of the largest sum at each pixel, the first of equal ones; see `sum_planes`.

    first_y (rows + 2,) is where the pixels of each gap of the grid begin, frac_y (height,) a pixel's way from the
    centre above to the one below; first_x and frac_x the same across.
    """
    rows, columns = rows_around.shape[2], columns_around.shape[2]
    blocks, number = (columns + BLOCK_COLUMNS) // BLOCK_COLUMNS, len(classes)
    source_rows = 1
    for end in range(len(weights)):
        for top in range(rows):
            bottom = min(top + BLOCK_ROWS, rows - 1)
            span: Any = np.int64(rows_around[end, 1, bottom]) + 1 - np.int64(rows_around[end, 0, top])
            source_rows = max(source_rows, span)
    is_border = np.zeros((columns + 8) // 8 * 8, np.uint8)
    _fill_map(
        (cells, planes, weights, source_columns, is_on_grid, rows_around, row_fracs, columns_around, column_fracs),
        (first_y, frac_y, first_x, frac_x, classes),
        (np.empty((blocks, number), np.int64), np.empty(blocks, np.int64)),
        (
            np.empty((len(planes), LEVELS, max(source_columns.max(), columns)), cells.dtype),
            *(np.empty(columns, cells.dtype), np.empty(columns, cells.dtype), np.empty(number, np.float32)),
        ),
        (np.empty((number, blocks, 2), np.int64), np.empty(number, np.int64)),
        (
            *(np.empty((len(planes), source_rows, columns), np.float32), np.empty((2, number, columns), np.float32)),
            *(np.empty(columns, np.float32), np.empty((2, columns), np.int32)),
        ),
        (np.empty(number, np.int64), np.empty((2, number), np.float32), is_border, is_border.view(np.uint64)),
        out,
    )


@compiled(
    types.void(
        *(frozen("float32", 2), frozen("uint32", 2), frozen("float32", 1), frozen("uint32", 2), frozen("float32", 1)),
        filled("float32", 2),
    )
)
def resample(plane: Any, rows_around: Any, row_fracs: Any, columns_around: Any, column_fracs: Any, out: Any) -> None:
    """out (rows, columns) between the rows_around (2, rows) and columns_around (2, columns) of a plane."""
    stretched = np.empty((2, out.shape[1]), np.float32)
    for row in range(len(out)):
        for side in range(2):
            _stretch(
                *(plane[rows_around[side, row]], columns_around[0], columns_around[1], column_fracs, ONE),
                stretched[side],
            )
        _add_between(stretched[0], stretched[1], row_fracs[row], True, out[row])
