"""Semantic maps of several ends joined to one: their probabilities averaged, the likeliest class at every pixel.

Coordinates. An end's network sees the whole photo as its valid input, and grid cell g covers the input pixels
[g · stride, (g + 1) · stride). So with `cells` = input size / stride (not whole, in general) the point at fraction u of
the photo's side lies at u · cells - 0.5 on the grid, counted in cell centres; between centres the planes are
interpolated bilinearly, beyond the outermost ones they are constant. Cells that see nothing but padding are never read.

Between four neighbouring centres every interpolated value is a convex combination of theirs. So where one class is the
largest at all four it is the largest everywhere between them, and only the few quads on which the winners differ have
to be interpolated. `semantic_kernels.py` rests on that.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.predictions.semantic import ImageSemantics

AverageOf = Literal["probabilities", "log_probabilities"]

FLOOR = 1 / 510
"""Half of an 8-bit step: what is less, the cache cannot tell from impossible."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Cells that the photo spans, and how many (rows, columns) hold them."""

    cells_hw: tuple[float, float]
    shape: tuple[int, int]


@functools.lru_cache(maxsize=64)  # the photos of a data set share few sizes
def _centres_around(centres: int, cells: float, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Between which of the grid's centres the pixels of an axis lie, (2, pixels) int64, and how far from the one before
    to the next, (pixels,) float32. Beyond the outermost centres they are the same one, twice."""
    position = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
    gap = np.clip(np.floor(position).astype(np.int64) + 1, 0, centres)
    frac = np.clip(position - (gap - 1), 0, 1).astype(np.float32)
    return np.clip(np.stack([gap - 1, gap]), 0, centres - 1), frac


@functools.lru_cache(maxsize=64)
def _stretch(source: int, source_cells: float, target: int, target_cells: float) -> tuple[np.ndarray, np.ndarray]:
    """Between which two cells of an axis the centres of another's `target` cells lie, (2, target) int64, and how far
    from the first to the second, (target,) float32. Beyond the outermost centres they are the same one, twice."""
    position = (np.arange(target) + 0.5) * (1 / (target_cells / source_cells)) - 0.5
    low = np.floor(position)
    frac = (position - low).astype(np.float32)
    around = np.clip(np.stack([low, low + (frac > 0)]), 0, source - 1).astype(np.int64)
    return around, frac


class _WeightedPlanes(NamedTuple):
    """Planes of some ends as `semantic_kernels.sum_planes` takes them."""

    cells: np.ndarray
    end_of_plane: np.ndarray
    place_of_plane: np.ndarray
    weights: np.ndarray
    is_on_grid: np.ndarray
    rows_around: np.ndarray
    row_fracs: np.ndarray
    columns_around: np.ndarray
    column_fracs: np.ndarray

    @classmethod
    def of(
        cls,
        planes_of_end: Sequence[np.ndarray],
        places_of_end: Sequence[Sequence[int]],
        *,
        weights: Sequence[float],
        sources: Sequence[_Grid],
        grid: _Grid,
    ) -> _WeightedPlanes:
        """Of ends' planes (C, rows, columns) on their grids, and which of the K classes each is of."""
        counts = list(map(len, planes_of_end))
        rows, columns = (max(source.shape[axis] for source in sources) for axis in (0, 1))
        cells = np.empty((sum(counts), rows, columns), dtype=planes_of_end[0].dtype)
        first = 0
        for planes, source in zip(planes_of_end, sources, strict=True):
            height, width = source.shape
            cells[first : first + len(planes), :height, :width] = planes[:, :height, :width]
            first += len(planes)
        return cls(
            cells,
            np.repeat(np.arange(len(counts)), counts),
            np.array(list(itertools.chain.from_iterable(places_of_end)), dtype=np.int64),
            np.array(weights, dtype=np.float32),
            *_stretch_ends(tuple(sources), grid),
        )

    def sum(self, *, classes: int) -> np.ndarray:
        """(classes, rows, columns) float32 on the grid."""
        from antvisionps.fusion.semantic_kernels import sum_planes

        sums = np.zeros((classes, self.rows_around.shape[2], self.columns_around.shape[2]), dtype=np.float32)
        sum_planes(self[:3], self[3:], sums)
        return sums


@functools.lru_cache(maxsize=64)
def _stretch_ends(sources: tuple[_Grid, ...], grid: _Grid) -> tuple[np.ndarray, ...]:
    """From `is_on_grid` on what `_WeightedPlanes` has."""
    is_on_grid = np.array([source == grid for source in sources])
    arrays = [is_on_grid]
    for axis in (0, 1):
        to = grid.shape[axis], grid.cells_hw[axis]
        stretches = [_stretch(source.shape[axis], source.cells_hw[axis], *to) for source in sources]
        arrays += [np.stack(of_ends) for of_ends in zip(*stretches, strict=True)]
    return tuple(arrays)


@dataclass(frozen=True, eq=False)
class SemanticAverage:
    """The average of all ends on the finest end's grid, for a photo of height x width.

    class_indices (K,) uint8 ascending; classes that are not listed are 0 everywhere. `planes` add up to `sums`.
    `has_things`: class 0 is a thing · `end`: the names of those that were averaged, joined by +.
    """

    height: int
    width: int
    class_indices: np.ndarray
    planes: _WeightedPlanes
    total: float
    grid: _Grid
    has_things: bool
    end: str = ""

    @cached_property
    def sums(self) -> np.ndarray:
        """(K, rows, columns) float32, `total` times the average probabilities."""
        return self.planes.sum(classes=len(self.class_indices))

    @cached_property
    def class_map(self) -> np.ndarray:
        """(height, width) uint8, the class index of the largest average at each pixel; the lowest wins a tie.

        Where every class is 0 it is thing 0, which leaves the pixel void, or VOID_CLASS_INDEX without things.
        """
        from antvisionps.fusion.semantic_kernels import argmax_of_planes

        rows, columns = (
            _centres_around(centres, cells, pixels)
            for centres, cells, pixels in zip(
                self.grid.shape, self.grid.cells_hw, (self.height, self.width), strict=True
            )
        )
        class_map = np.empty((self.height, self.width), dtype=np.uint8)
        argmax_of_planes(self.planes[:3], self.planes[3:], (*rows, *columns, self.class_indices), class_map)
        if not self.has_things:
            class_map[self.confidence() == 0] = VOID_CLASS_INDEX
        return class_map

    def confidence(self) -> np.ndarray:
        """(height, width) float32 in 0 to 1: the largest average probability of the grid, interpolated."""
        return self._at_pixels(self.sums.max(axis=0) / np.float32(self.total))

    def probabilities(self, class_index: int, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """(height, width), or of some rows and columns, float32 in 0 to 1: the average probability of a class,
        interpolated."""
        places = np.flatnonzero(self.class_indices == class_index)
        plane = self.sums[places[0]] if len(places) else np.zeros(self.grid.shape, dtype=np.float32)
        return self._at_pixels(plane / np.float32(self.total), rows, columns)

    @cached_property
    def logits(self) -> np.ndarray:
        """(K, height, width) float32: log(p / floor) of the classes listed, interpolated; other classes are 0.

        The floor is FLOOR. Probabilities know their logits up to a constant at each pixel, and
        this one makes a class that the cache cannot tell from impossible 0, and a certain one 6.2.
        """
        floor = np.float32(FLOOR)
        probs = np.maximum(self.sums / np.float32(self.total), floor)
        return np.stack([self._at_pixels(plane) for plane in np.log(probs / floor)])

    def _at_pixels(self, plane: np.ndarray, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        hw = (self.height, self.width)
        whole = _WeightedPlanes.of([plane[None]], [[0]], weights=[1], sources=[self.grid], grid=_Grid(hw, hw))
        window = whole._replace(
            is_on_grid=np.zeros(1, dtype=bool),  # has the kernel read from the four below where the window lies
            rows_around=np.ascontiguousarray(whole.rows_around[..., rows]),
            row_fracs=np.ascontiguousarray(whole.row_fracs[..., rows]),
            columns_around=np.ascontiguousarray(whole.columns_around[..., columns]),
            column_fracs=np.ascontiguousarray(whole.column_fracs[..., columns]),
        )
        return window.sum(classes=1)[0]


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
        places = range(len(means))
        planes, total = _WeightedPlanes.of([means], [places], weights=[1], sources=[grid], grid=grid), 1.0
    else:
        class_indices, planes = _weigh_planes(present, grid=grid, categories=categories)
        total = 255 * sum(weight for _, weight in present)
    has_things = bool(categories.things)
    return SemanticAverage(finest.height, finest.width, class_indices, planes, total, grid, has_things)


def _grid(image: ImageSemantics) -> _Grid:
    cells_hw = image.input_height / image.stride, image.input_width / image.stride
    # A network that rounds sizes down has a cell less than it takes to hold its input.
    _, rows, columns = image.planes.shape
    return _Grid(cells_hw, (min(rows, math.ceil(cells_hw[0])), min(columns, math.ceil(cells_hw[1]))))


def _weigh_planes(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, _WeightedPlanes]:
    """Class indices (K,) uint8 ascending, and the planes, which add up to weight · 255 p on `grid`.

    Not divided by the weights' sum, which leaves the argmax as it is: so the sums of 8-bit values under whole weights
    are exact in float32, and a tie is a tie. Class 0 is always there, as it wins where every class is 0.
    """
    classes_of_end = [list(map(categories.class_index, end.category_ids.tolist())) for end, _ in ends]
    class_indices = sorted({0, *itertools.chain.from_iterable(classes_of_end)})
    place_of = {class_index: place for place, class_index in enumerate(class_indices)}
    planes = _WeightedPlanes.of(
        [end.planes for end, _ in ends],
        [[place_of[class_index] for class_index in classes] for classes in classes_of_end],
        weights=[weight for _, weight in ends],
        sources=[_grid(end) for end, _ in ends],
        grid=grid,
    )
    return np.array(class_indices, dtype=np.uint8), planes


def _geometric_means(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, np.ndarray]:
    """Class indices as of `_weigh_planes`, and (K, rows, columns) float32 of `grid` that sum to 1 in each cell.

    A mean is proportional to exp Σ share · log(max(p, FLOOR) / FLOOR), to which a plane that is 0 adds nothing.
    """
    of_end = [_weigh_planes([(end, 1.0)], grid=grid, categories=categories) for end, _ in ends]
    planes_of_end = [(indices, planes.sum(classes=len(indices))) for indices, planes in of_end]
    class_indices = functools.reduce(np.union1d, [indices for indices, _ in planes_of_end])
    total = sum(weight for _, weight in ends)
    logs = np.zeros((len(class_indices), *grid.shape), dtype=np.float32)
    for (indices, planes), (_, weight) in zip(planes_of_end, ends, strict=True):
        above_floor = np.maximum(planes / np.float32(255 * FLOOR), 1)
        logs[np.searchsorted(class_indices, indices)] += np.log(above_floor) * np.float32(weight / total)
    means = np.where(logs > 0, np.exp(logs), np.float32(0))
    sums = means.sum(axis=0)
    return class_indices, means / np.where(sums > 0, sums, 1)
