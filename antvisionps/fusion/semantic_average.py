"""Semantic maps of several ends joined to one: their probabilities averaged, the likeliest class at every pixel.

Coordinates. An end's network sees the whole photo as its valid input, and grid cell g covers the input pixels
[g · stride, (g + 1) · stride). So with `cells` = input size / stride (not whole, in general) the point at fraction u of
the photo's side lies at u · cells - 0.5 on the grid, counted in cell centres; between centres the planes are
interpolated bilinearly, beyond the outermost ones they are constant. Cells that see nothing but padding are never read.

Between four neighbouring centres every interpolated value is a convex combination of theirs. So where one class is the
largest at all four it is the largest everywhere between them, and only the few quads on which the winners differ have
to be interpolated; and there only classes whose largest corner is not below another class's smallest. Both are exact.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np

from antvisionps.categories import CategorySet
from antvisionps.predictions.semantic import ImageSemantics

AverageOf = Literal["probabilities", "log_probabilities"]

FLOOR = 1 / 510
"""Half of an 8-bit step: what is less, the cache cannot tell from impossible."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Cells that the photo spans, and how many (rows, columns) hold them."""

    cells_hw: tuple[float, float]
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Axis:
    """How the pixels of one axis lie between the n centres of the grid.

    Gap g of n + 1 lies between centres g - 1 and g, and holds pixels first[g] ≤ i < first[g + 1]. gap (pixels,) is each
    pixel's gap, frac (pixels,) float32 its way from the lower centre to the upper, most the pixels of the fullest gap.
    """

    size: int
    gap: np.ndarray
    frac: np.ndarray
    first: np.ndarray
    most: int

    @classmethod
    @functools.lru_cache(maxsize=64)  # the photos of a data set share few sizes
    def of(cls, *, centres: int, cells: float, pixels: int) -> _Axis:
        position = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
        gap = np.clip(np.floor(position).astype(np.int64) + 1, 0, centres)
        first = np.searchsorted(gap, np.arange(centres + 2))
        frac = np.clip(position - (gap - 1), 0, 1).astype(np.float32)
        return cls(centres, gap, frac, first, int(np.diff(first).max()))

    def centres(self, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The centres below and above each gap; beyond the outermost they are the same one, twice."""
        return np.maximum(gap - 1, 0), np.minimum(gap, self.size - 1)

    def pixels(self, gap: np.ndarray) -> np.ndarray:
        """(most, gaps) the pixels of each gap that has some; a gap of fewer repeats its last one."""
        return np.minimum(self.first[gap] + np.arange(self.most)[:, None], self.first[gap + 1] - 1)

    def is_empty(self) -> np.ndarray:
        """(gaps,) bool, where no pixel lies."""
        return self.first[1:] == self.first[:-1]


@dataclass(frozen=True, eq=False)
class SemanticAverage:
    """The average of all ends on the finest end's grid, for a photo of height x width.

    class_indices (K,) uint8 ascending · sums (K, rows, columns) float32, `total` times the average probabilities.
    Classes that are not listed are 0 everywhere.
    """

    height: int
    width: int
    class_indices: np.ndarray
    sums: np.ndarray
    total: float
    grid: _Grid

    def class_map(self) -> np.ndarray:
        """(height, width) uint8, the class index of the largest average at each pixel; the lowest wins a tie."""
        return self._class_map

    @cached_property
    def _class_map(self) -> np.ndarray:
        rows, columns = (
            _Axis.of(centres=centres, cells=cells, pixels=pixels)
            for centres, cells, pixels in zip(
                self.grid.shape, self.grid.cells_hw, (self.height, self.width), strict=True
            )
        )
        return _argmax(self.sums, self.class_indices, rows=rows, columns=columns)

    def confidence(self) -> np.ndarray:
        """(height, width) float32 in 0 to 1: the largest average probability of the grid, interpolated."""
        return self._at_pixels(self.sums.max(axis=0) / np.float32(self.total))

    def logits(self) -> np.ndarray:
        """(K, height, width) float32: log(p / floor) of the classes listed, interpolated; other classes are 0.

        The floor is FLOOR. Probabilities know their logits up to a constant at each pixel, and
        this one makes a class that the cache cannot tell from impossible 0, and a certain one 6.2.
        """
        return self._logits

    @cached_property
    def _logits(self) -> np.ndarray:
        floor = np.float32(FLOOR)
        probs = np.maximum(self.sums / np.float32(self.total), floor)
        return np.stack([self._at_pixels(plane) for plane in np.log(probs / floor)])

    def _at_pixels(self, plane: np.ndarray) -> np.ndarray:
        hw = (self.height, self.width)
        return _resample(plane, source=self.grid, target=_Grid(hw, hw))


def average_semantics(
    ends: Sequence[ImageSemantics], *, weights: Sequence[float], categories: CategorySet, average_of: AverageOf
) -> SemanticAverage:
    """The average of the ends' probabilities, the coarser ones resampled onto the finest one's grid.

    That of log-probabilities is the geometric mean, which in each cell is normalised to sum to 1; a probability below
    FLOOR counts as FLOOR there, and a class that no end sees above it stays 0. Of one end either is what it says. Ends
    are of one image; weights are relative, and an end of weight 0 counts as absent. Raises ValueError when no end has a
    weight above 0.
    """
    present = [(end, weight) for end, weight in zip(ends, weights, strict=True) if weight > 0]
    if not present:
        raise ValueError(f"expected an end of positive weight, got weights {list(weights)}")
    finest = max((end for end, _ in present), key=lambda end: np.prod(_grid(end).cells_hw))
    grid = _grid(finest)
    if average_of == "log_probabilities" and len(present) > 1:
        class_indices, means = _geometric_means(present, grid=grid, categories=categories)
        return SemanticAverage(finest.height, finest.width, class_indices, means, 1.0, grid)
    class_indices, sums = _weighted_sums(present, grid=grid, categories=categories)
    total = 255 * sum(weight for _, weight in present)
    return SemanticAverage(finest.height, finest.width, class_indices, sums, total, grid)


def semantic_class_map(
    ends: Sequence[ImageSemantics], *, weights: Sequence[float], categories: CategorySet, average_of: AverageOf
) -> np.ndarray:
    """The class map of `average_semantics`: the average resampled to the original pixels, and its argmax."""
    return average_semantics(ends, weights=weights, categories=categories, average_of=average_of).class_map()


def _grid(image: ImageSemantics) -> _Grid:
    cells_hw = image.input_height / image.stride, image.input_width / image.stride
    # A network that rounds sizes down has a cell less than it takes to hold its input.
    _, rows, columns = image.planes.shape
    return _Grid(cells_hw, (min(rows, math.ceil(cells_hw[0])), min(columns, math.ceil(cells_hw[1]))))


def _weighted_sums(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, np.ndarray]:
    """Class indices (K,) uint8 ascending, and (K, rows, columns) float32 of `grid`: the sums of weight · 255 p.

    Not divided by the weights' sum, which leaves the argmax as it is: so the sums of 8-bit values under whole weights
    are exact in float32, and a tie is a tie. Class 0 is always there, as it wins where every class is 0.
    """
    class_of_plane = [[categories.class_index(category_id) for category_id in end.category_ids] for end, _ in ends]
    class_indices = np.unique([0, *itertools.chain.from_iterable(class_of_plane)]).astype(np.uint8)
    sums = np.empty((len(class_indices), *grid.shape), dtype=np.float32)
    is_begun = np.zeros(len(class_indices), dtype=bool)
    for (image, weight), classes in zip(ends, class_of_plane, strict=True):
        source = _grid(image)
        for index, plane in zip(np.searchsorted(class_indices, classes).tolist(), image.planes, strict=True):
            weighted = plane[: source.shape[0], : source.shape[1]].astype(np.float32)
            if weight != 1:
                weighted *= np.float32(weight)
            if source != grid:
                weighted = _resample(weighted, source=source, target=grid)
            if is_begun[index]:
                sums[index] += weighted
            else:
                sums[index] = weighted
                is_begun[index] = True
    sums[~is_begun] = 0
    return class_indices, sums


def _geometric_means(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, np.ndarray]:
    """Class indices as of `_weighted_sums`, and (K, rows, columns) float32 of `grid` that sum to 1 in each cell.

    A mean is proportional to exp Σ share · log(max(p, FLOOR) / FLOOR), to which a plane that is 0 adds nothing.
    """
    planes_of_end = [_weighted_sums([(end, 1.0)], grid=grid, categories=categories) for end, _ in ends]
    class_indices = functools.reduce(np.union1d, [indices for indices, _ in planes_of_end])
    total = sum(weight for _, weight in ends)
    logs = np.zeros((len(class_indices), *grid.shape), dtype=np.float32)
    for (indices, planes), (_, weight) in zip(planes_of_end, ends, strict=True):
        above_floor = np.maximum(planes / np.float32(255 * FLOOR), 1)
        logs[np.searchsorted(class_indices, indices)] += np.log(above_floor) * np.float32(weight / total)
    means = np.where(logs > 0, np.exp(logs), np.float32(0))
    sums = means.sum(axis=0)
    return class_indices, means / np.where(sums > 0, sums, 1)


def _resample(plane: np.ndarray, *, source: _Grid, target: _Grid) -> np.ndarray:
    """The plane at the centres of the target's cells, float32."""
    zoom_y, zoom_x = (to / of for to, of in zip(target.cells_hw, source.cells_hw, strict=True))
    rows, columns = target.shape
    # OpenCV keeps an exact zoom only if it may choose the size of the result, round(size · zoom). Copies of the last
    # cell, which are the constant continuation, make that at least what is wanted.
    below = max(0, math.ceil(rows / zoom_y) + 1 - plane.shape[0])
    right = max(0, math.ceil(columns / zoom_x) + 1 - plane.shape[1])
    padded = cv2.copyMakeBorder(plane, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(padded, None, fx=zoom_x, fy=zoom_y, interpolation=cv2.INTER_LINEAR)[:rows, :columns]


def _argmax(planes: np.ndarray, class_indices: np.ndarray, *, rows: _Axis, columns: _Axis) -> np.ndarray:
    """(pixels, pixels) uint8, the class (K,) of the plane (K, n, m) that is largest at each pixel; the first of equal
    ones."""
    winner = cv2.copyMakeBorder(_first_largest(planes), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    corner = winner[:-1, :-1]
    is_mixed = (corner != winner[1:, :-1]) | (corner != winner[:-1, 1:]) | (corner != winner[1:, 1:])
    is_mixed[rows.is_empty()] = False
    is_mixed[:, columns.is_empty()] = False
    largest = np.take(class_indices[corner], columns.gap, axis=1)[rows.gap]
    gap_y, gap_x = np.divmod(np.flatnonzero(is_mixed), is_mixed.shape[1])
    if len(gap_y):
        y, x = rows.pixels(gap_y), columns.pixels(gap_x)
        corners = _corners(planes, rows.centres(gap_y), columns.centres(gap_x))
        found = _argmax_between(corners, rows.frac[y], columns.frac[x])
        largest.ravel()[y[:, None] * len(columns.gap) + x] = class_indices[found]
    return largest


def _first_largest(planes: np.ndarray) -> np.ndarray:
    """(n, m) uint8, the index of the largest of (K, n, m) planes.

    Plane by plane: numpy's argmax over the first axis is thirty times slower. An index is larger than all before it,
    so a maximum puts it in place, which is faster than to assign where a plane is larger.
    """
    best = planes[0].copy()
    winner = np.zeros(best.shape, dtype=np.uint8)
    is_larger = np.empty(best.shape, dtype=bool)
    for index, plane in enumerate(planes[1:], start=1):
        np.greater(plane, best, out=is_larger)
        np.maximum(winner, is_larger.view(np.uint8) * np.uint8(index), out=winner)
        np.maximum(best, plane, out=best)
    return winner


def _corners(
    planes: np.ndarray, y: tuple[np.ndarray, np.ndarray], x: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(K, Q) of the planes at the corners of Q quads: top left, top right, bottom left, bottom right."""
    flat = planes.reshape(len(planes), -1)
    top_left, top_right, bottom_left, bottom_right = (
        np.take(flat, row * planes.shape[2] + column, axis=1) for row in y for column in x
    )
    return top_left, top_right, bottom_left, bottom_right


def _argmax_between(
    corners: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], frac_y: np.ndarray, frac_x: np.ndarray
) -> np.ndarray:
    """(n, m, Q) uint8, the first of the largest planes at points frac_y (n, Q), frac_x (m, Q) inside of Q quads."""
    lowest, highest = functools.reduce(np.minimum, corners), functools.reduce(np.maximum, corners)
    is_candidate = np.ascontiguousarray((highest >= lowest.max(axis=0)).T)
    quad, plane = np.divmod(np.flatnonzero(is_candidate), len(lowest))
    candidates = np.bincount(quad, minlength=len(is_candidate))
    first = np.cumsum(candidates) - candidates
    # Quads of many candidates first: those that have a second, a third ... candidate are then slices. And they are the
    # last axis throughout, as numpy is slow on short ones.
    order = np.argsort(-candidates)
    first = first[order]
    # take, not [:, order], which gives the quads as the short stride.
    frac_y, frac_x = (np.take(frac, order, axis=1) for frac in (frac_y, frac_x))
    having = np.searchsorted(-candidates[order], -np.arange(candidates.max()))
    best = np.full((len(frac_y), len(frac_x), len(order)), -np.inf, dtype=np.float32)
    largest = np.zeros(best.shape, dtype=np.uint8)
    for rank, quads in enumerate(having.tolist()):
        planes = plane[first[:quads] + rank]
        place = planes * len(order) + order[:quads]
        values = _interpolate([corner.ravel()[place] for corner in corners], frac_y[:, :quads], frac_x[:, :quads])
        is_larger = values > best[..., :quads]
        np.copyto(largest[..., :quads], planes.astype(np.uint8), where=is_larger)
        np.maximum(best[..., :quads], values, out=best[..., :quads])
    found = np.empty_like(largest)
    found[..., order] = largest
    return found


def _interpolate(corners: Sequence[np.ndarray], frac_y: np.ndarray, frac_x: np.ndarray) -> np.ndarray:
    """(n, m, Q) from corners (Q,) each."""
    top_left, top_right, bottom_left, bottom_right = corners
    rest_y, rest_x = 1 - frac_y, 1 - frac_x
    left = top_left * rest_y + bottom_left * frac_y
    right = top_right * rest_y + bottom_right * frac_y
    return left[:, None] * rest_x + right[:, None] * frac_x
