"""The inner loops of semantic averaging, compiled.

In most places most classes can be left out. The argmax goes over the photo in blocks of BLOCK x BLOCK pixels. In each
it sums up, likeliest first, only the classes that may be the largest somewhere in it. If n classes add up to S or more
at every grid cell around the block, they do so at every pixel, which lies between such cells, so the largest of
them has S / n or more. A class whose planes' largest cells there add up to less is nowhere the largest. Inside a region
this leaves one class, on a border a few. In tiles of TILE x TILE pixels the sums themselves leave out more: a class
whose largest cell is below another's smallest. Both are exact: a class that is left out changes no pixel.

Interpolation on the grid is low + (high - low) · frac, rounded twice, as OpenCV's resize does it with AVX2: the product
of two float32 is exact in float64.
"""

from typing import Any

import numpy as np
from numba import types

from antvisionps.core.compiled import compiled, filled, frozen, inlined

ONE = np.float32(1)
BLOCK, TILE = 40, 8
SLACK = np.float32(1 + 2**-10)
"""More than rounding can add to a class or take from a bound."""

_PLANES = [types.Tuple((frozen(dtype, 3), frozen("int64", 1), frozen("int64", 1))) for dtype in ("uint8", "float32")]
_ENDS = types.Tuple(
    (
        *(frozen("float32", 1), frozen("boolean", 1)),
        *(frozen("int64", 3), frozen("float32", 2), frozen("int64", 3), frozen("float32", 2)),
    )
)
_PIXELS = types.Tuple(
    (frozen("int64", 2), frozen("float32", 1), frozen("int64", 2), frozen("float32", 1), frozen("uint8", 1))
)


@inlined
def _between(low: Any, high: Any, frac: Any) -> Any:
    return np.float32(np.float64(high - low) * np.float64(frac) + np.float64(low))


@inlined
def _add_cells(cells: Any, weight: Any, place: Any, sums: Any) -> None:
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            sums[place, row, column] += np.float32(cells[row, column]) * weight


@inlined
def _add_between(
    cells: Any, plane: Any, end: Any, ends: Any, corners: Any, stretched: Any, place: Any, sums: Any
) -> None:
    """Adds what lies between the cells of another grid; first between its columns, in its rows of stretched."""
    weights, _, rows_around, row_fracs, columns_around, column_fracs = ends
    top, bottom, left, right = corners
    weight = weights[end]
    for source in range(rows_around[end, 0, top], rows_around[end, 1, bottom - 1] + 1):
        for column in range(right - left):
            low = np.float32(cells[plane, source, columns_around[end, 0, left + column]]) * weight
            high = np.float32(cells[plane, source, columns_around[end, 1, left + column]]) * weight
            stretched[source, column] = _between(low, high, column_fracs[end, left + column])
    for row in range(bottom - top):
        upper, lower = rows_around[end, 0, top + row], rows_around[end, 1, top + row]
        frac = row_fracs[end, top + row]
        for column in range(right - left):
            sums[place, row, column] += _between(stretched[upper, column], stretched[lower, column], frac)


@inlined
def _add_plane(planes: Any, plane: Any, ends: Any, corners: Any, stretched: Any, sums: Any) -> None:
    """Adds to its class's sums a plane, times its end's weight, at the corners: rows and columns of the grid, from and
    to."""
    cells, end_of_plane, place_of_plane = planes
    weights, is_on_grid, _, _, _, _ = ends
    top, bottom, left, right = corners
    end, place = end_of_plane[plane], place_of_plane[plane]
    if is_on_grid[end]:
        _add_cells(cells[plane, top:bottom, left:right], weights[end], place, sums)
    else:
        _add_between(cells, plane, end, ends, corners, stretched, place, sums)


@compiled(*(types.void(planes, _ENDS, filled("float32", 3)) for planes in _PLANES))
def sum_planes(planes: Any, ends: Any, sums: Any) -> None:
    """Adds up in sums (K, rows, columns), zero at first, the weighted planes of each class.

    planes: cells (P, …, …), 8 bits or float32, none negative, each from the top left of its array · end_of_plane,
    place_of_plane (P,) whose, and of which of the K classes. ends: weights (E,) · is_on_grid (E,) whether their cells
    are the result's · rows_around (E, 2, rows) the end's rows around each row of the result, row_fracs (E, rows) how
    far that is from the first to the second, and the same of the columns.
    """
    cells = planes[0]
    corners = (0, sums.shape[1], 0, sums.shape[2])
    stretched = np.empty((cells.shape[1], sums.shape[2]), np.float32)
    for plane in range(len(cells)):
        _add_plane(planes, plane, ends, corners, stretched, sums)


# The argmax


@inlined
def _find_most(cells: Any, most: Any) -> None:
    """most (columns,): the largest cell of each column."""
    most[:] = 0
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            most[column] = max(most[column], cells[row, column])


@inlined
def _bound_classes(planes: Any, ends: Any, left: Any, right: Any, most: Any, bounds: Any) -> None:
    """bounds (K,): no less than each class has in the columns from left to right."""
    _, end_of_plane, place_of_plane = planes
    weights, _, _, _, columns_around, _ = ends
    bounds[:] = 0
    for plane in range(len(end_of_plane)):
        end = end_of_plane[plane]
        largest = most[plane, columns_around[end, 0, left]]
        for column in range(columns_around[end, 0, left], columns_around[end, 1, right - 1] + 1):
            largest = max(largest, most[plane, column])
        bounds[place_of_plane[plane]] += np.float32(largest) * weights[end]


@inlined
def _add_least(sums: Any, place: Any, height: Any, width: Any, total: Any, least: Any) -> Any:
    """Adds a class's sums to the total, and returns its smallest value; least (columns,) is scratch."""
    for row in range(height):
        for column in range(width):
            value = total[row, column] + sums[place, row, column]
            total[row, column] = value
            is_least = (row == 0) | (value < least[column])
            least[column] = value if is_least else least[column]
    smallest = least[0]
    for column in range(width):
        smallest = min(smallest, least[column])
    return smallest


@inlined
def _sum_candidates(planes: Any, ends: Any, corners: Any, bounds: Any, held: Any) -> Any:
    """How many classes may be the largest between the corners: candidates begins with them, sums has theirs."""
    place_of_plane = planes[2]
    stretched, sums, total, least, candidates = held
    height, width = corners[1] - corners[0], corners[3] - corners[2]
    total[:] = 0
    number, floor = 0, np.float32(0)
    place = np.argmax(bounds)
    while number < len(bounds) and bounds[place] * SLACK >= floor:
        sums[place] = 0
        for plane in range(len(place_of_plane)):
            if place_of_plane[plane] == place:
                _add_plane(planes, plane, ends, corners, stretched, sums)
        bounds[place] = -1
        number += 1
        floor = max(floor, _add_least(sums, place, height, width, total, least) / np.float32(number))
        place = np.argmax(bounds)
    number = 0
    for candidate in range(len(bounds)):
        candidates[number] = candidate
        number += bounds[candidate] < 0
    return number


@inlined
def _keep_contenders(sums: Any, candidates: Any, number: Any, corners: Any, most: Any, contenders: Any) -> Any:
    """How many of the candidates may be the largest between the corners, with which contenders begins: those whose
    largest sum is not below another's smallest."""
    top, bottom, left, right = corners
    floor, kept = np.float32(0), 0
    for rank in range(number):
        place = candidates[rank]
        least = largest = sums[place, top, left]
        for row in range(top, bottom):
            for column in range(left, right):
                value = sums[place, row, column]
                least = value if value < least else least
                largest = value if value > largest else largest
        most[rank], floor = largest, max(floor, least)
    for rank in range(number):
        contenders[kept] = candidates[rank]
        kept += most[rank] * SLACK >= floor
    return kept


@inlined
def _fill(value: Any, tile: Any, out: Any) -> None:
    first_row, stop_row, first, stop = tile
    for y in range(first_row, stop_row):
        for x in range(first, stop):
            out[y, x] = value


@inlined
def _fill_tile(sums: Any, contenders: Any, number: Any, tile: Any, pixels: Any, out: Any) -> None:
    """The class of the largest sum at each pixel of a tile, the first of equal ones."""
    upper, lower, frac_y, before, after, frac_x, classes = pixels
    first_row, stop_row, first, stop = tile
    for y in range(first_row, stop_row):
        above, below, down, up = upper[y], lower[y], frac_y[y], ONE - frac_y[y]
        for x in range(first, stop):
            largest, winner = -ONE, 0
            for rank in range(number):
                place = contenders[rank]
                one = sums[place, above, before[x]] * up + sums[place, below, before[x]] * down
                other = sums[place, above, after[x]] * up + sums[place, below, after[x]] * down
                value = one * (ONE - frac_x[x]) + other * frac_x[x]
                winner = place if value > largest else winner
                largest = value if value > largest else largest
            out[y, x] = classes[winner]


@inlined
def _fill_block(sums: Any, candidates: Any, number: Any, pixels: Any, scratch: Any, out: Any) -> None:
    """The pixels of a block, tile by tile; its sums' first row and column are those around its first pixel."""
    upper, lower, _, before, after, _, classes = pixels
    most, contenders = scratch
    for y in range(0, out.shape[0], TILE):
        stop_y = min(y + TILE, out.shape[0])
        for x in range(0, out.shape[1], TILE):
            stop_x = min(x + TILE, out.shape[1])
            corners = (upper[y], lower[stop_y - 1] + 1, before[x], after[stop_x - 1] + 1)
            kept = _keep_contenders(sums, candidates, number, corners, most, contenders)
            if kept > 1:
                _fill_tile(sums, contenders, kept, (y, stop_y, x, stop_x), pixels, out)
            else:
                _fill(classes[contenders[0]], (y, stop_y, x, stop_x), out)


@inlined
def _most_around(around: Any) -> Any:
    """How many cells a block of the pixels between `around` (2, pixels) has around it at most."""
    most = 0
    for first in range(0, around.shape[1], BLOCK):
        last = min(first + BLOCK, around.shape[1]) - 1
        most = max(most, around[1, last] + 1 - around[0, first])
    return most


@compiled(*(types.void(planes, _ENDS, _PIXELS, filled("uint8", 2)) for planes in _PLANES))
def argmax_of_planes(planes: Any, ends: Any, pixels: Any, out: Any) -> None:
    """out (height, width): the class (K,) of the largest sum at each pixel, the first of equal ones; see `sum_planes`.

    pixels: around_y (2, height) are the rows of the grid around each pixel, frac_y (height,) its way from the first to
    the second; around_x and frac_x the same across; classes (K,).
    """
    height, width = out.shape
    cells, end_of_plane, _ = planes
    rows_around = ends[2]
    around_y, frac_y, around_x, frac_x, classes = pixels
    rows, columns, number = _most_around(around_y), _most_around(around_x), len(classes)
    most, bounds = np.empty((len(cells), cells.shape[2]), cells.dtype), np.empty(number, np.float32)
    stretched, sums = np.empty((cells.shape[1], columns), np.float32), np.empty((number, rows, columns), np.float32)
    candidates, scratch = np.empty(number, np.int64), (np.empty(number, np.float32), np.empty(number, np.int64))
    held = (stretched, sums, np.empty((rows, columns), np.float32), np.empty(columns, np.float32), candidates)
    for y in range(0, height, BLOCK):
        stop_y = min(y + BLOCK, height)
        top, bottom = around_y[0, y], around_y[1, stop_y - 1] + 1
        of_rows = (around_y[0, y:stop_y] - top, around_y[1, y:stop_y] - top, frac_y[y:stop_y])
        for plane in range(len(cells)):
            around = rows_around[end_of_plane[plane]]
            _find_most(cells[plane, around[0, top] : around[1, bottom - 1] + 1], most[plane])
        for x in range(0, width, BLOCK):
            stop_x = min(x + BLOCK, width)
            left, right = around_x[0, x], around_x[1, stop_x - 1] + 1
            _bound_classes(planes, ends, left, right, most, bounds)
            found = _sum_candidates(planes, ends, (top, bottom, left, right), bounds, held)
            if found > 1:
                of_columns = (around_x[0, x:stop_x] - left, around_x[1, x:stop_x] - left, frac_x[x:stop_x])
                of_block = (*of_rows, *of_columns, classes)
                _fill_block(sums, candidates, found, of_block, scratch, out[y:stop_y, x:stop_x])
            else:
                _fill(classes[candidates[0]], (y, stop_y, x, stop_x), out)
