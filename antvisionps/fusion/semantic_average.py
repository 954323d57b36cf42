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
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from antvisionps.panoptic.categories import CategorySet
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

    Gap g of n + 1 lies between centres g - 1 and g, and holds pixels first[g] ≤ i < first[g + 1]. frac (pixels,)
    float32 is each pixel's way from the centre before it to the next one.
    """

    first: np.ndarray
    frac: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=64)  # the photos of a data set share few sizes
    def of(cls, *, centres: int, cells: float, pixels: int) -> _Axis:
        position = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
        gap = np.clip(np.floor(position).astype(np.int64) + 1, 0, centres)
        first = np.searchsorted(gap, np.arange(centres + 2))
        frac = np.clip(position - (gap - 1), 0, 1).astype(np.float32)
        return cls(first, frac)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Between which two cells of an axis the centres of another's cells lie: around (2, n) uint32, and frac (n,)
    float32, how far from the first to the second. Beyond the outermost centres they are the same one, twice."""

    around: np.ndarray
    frac: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, *, source: int, source_cells: float, target: int, target_cells: float) -> _Stretch:
        position = (np.arange(target) + 0.5) * (1 / (target_cells / source_cells)) - 0.5
        low = np.floor(position)
        frac = (position - low).astype(np.float32)
        around = np.clip(np.stack([low, low + 1]), 0, source - 1).astype(np.uint32)
        return cls(around, frac)


def _stretches(source: _Grid, target: _Grid) -> tuple[_Stretch, _Stretch]:
    """From the rows and columns of one grid to another's."""
    rows, columns = (
        _Stretch.of(source=n, source_cells=n_cells, target=m, target_cells=m_cells)
        for n, n_cells, m, m_cells in zip(source.shape, source.cells_hw, target.shape, target.cells_hw, strict=True)
    )
    return rows, columns


class _WeightedPlanes(NamedTuple):
    """The planes of some ends as `semantic_kernels.sum_planes` takes them."""

    cells: np.ndarray
    planes: np.ndarray
    weights: np.ndarray
    source_columns: np.ndarray
    is_on_grid: np.ndarray
    rows_around: np.ndarray
    row_fracs: np.ndarray
    columns_around: np.ndarray
    column_fracs: np.ndarray


@dataclass(frozen=True, eq=False)
class SemanticAverage:
    """The average of all ends on the finest end's grid, for a photo of height x width.

    class_indices (K,) uint8 ascending; classes that are not listed are 0 everywhere. `planes` give `sums`, and look
    into `memory` of this process, so an average cannot be pickled.
    """

    height: int
    width: int
    class_indices: np.ndarray
    planes: _WeightedPlanes
    memory: Sequence[np.ndarray]
    total: float
    grid: _Grid

    def __reduce__(self) -> NoReturn:
        raise TypeError("an average looks into memory of this process and cannot be pickled")

    @cached_property
    def sums(self) -> np.ndarray:
        """(K, rows, columns) float32, `total` times the average probabilities."""
        return _sum_planes(self.planes, (len(self.class_indices), *self.grid.shape))

    def class_map(self) -> np.ndarray:
        """(height, width) uint8, the class index of the largest average at each pixel; the lowest wins a tie."""
        return self._class_map

    @cached_property
    def _class_map(self) -> np.ndarray:
        from antvisionps.fusion.semantic_kernels import argmax_of_planes

        rows, columns = (
            _Axis.of(centres=centres, cells=cells, pixels=pixels)
            for centres, cells, pixels in zip(
                self.grid.shape, self.grid.cells_hw, (self.height, self.width), strict=True
            )
        )
        pixels = (rows.first, rows.frac, columns.first, columns.frac)
        class_map = np.empty((self.height, self.width), dtype=np.uint8)
        argmax_of_planes(*self.planes, *pixels, self.class_indices, class_map)
        return class_map

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
        planes, memory, total = _planes_on_grid(means, grid), [means], 1.0
    else:
        class_indices, planes, memory = _weighted_planes(present, grid=grid, categories=categories)
        total = 255 * sum(weight for _, weight in present)
    return SemanticAverage(finest.height, finest.width, class_indices, planes, memory, total, grid)


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


def _weighted_planes(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, _WeightedPlanes, list[np.ndarray]]:
    """Class indices (K,) uint8 ascending, the planes to sum, weight · 255 p, on `grid`, and the memory they are in.

    Not divided by the weights' sum, which leaves the argmax as it is: so the sums of 8-bit values under whole weights
    are exact in float32, and a tie is a tie. Class 0 is always there, as it wins where every class is 0.
    """
    classes_of_end = [list(map(categories.class_index, end.category_ids.tolist())) for end, _ in ends]
    class_indices = sorted({0, *itertools.chain.from_iterable(classes_of_end)})
    place_of = {class_index: place for place, class_index in enumerate(class_indices)}
    begun: set[int] = set()
    flattened = [_flatten(end.planes) for end, _ in ends]
    memory = [flat for flat, _, _ in flattened]
    cells, begins = _span(memory)
    planes = []
    for index, classes in enumerate(classes_of_end):
        _, plane_pitch, row_pitch = flattened[index]
        for number, class_index in enumerate(classes):
            is_first = class_index not in begun
            planes.append((begins[index] + number * plane_pitch, row_pitch, index, place_of[class_index], is_first))
        begun.update(classes)
    weighted = _WeightedPlanes(
        cells,
        np.array(planes, dtype=np.int64),
        np.array([weight for _, weight in ends], dtype=np.float32),
        *_stretch_ends(tuple(_grid(end) for end, _ in ends), grid),
    )
    return np.array(class_indices, dtype=np.uint8), weighted, memory


def _planes_on_grid(sums: np.ndarray, grid: _Grid) -> _WeightedPlanes:
    """What `sum_planes` makes these (K, rows, columns) of."""
    classes, rows, columns = sums.shape
    planes = np.array([(place * rows * columns, columns, 0, place, True) for place in range(classes)], dtype=np.int64)
    return _WeightedPlanes(sums.reshape(-1), planes, np.ones(1, dtype=np.float32), *_stretch_ends((grid,), grid))


@functools.lru_cache(maxsize=64)
def _stretch_ends(sources: tuple[_Grid, ...], grid: _Grid) -> tuple[np.ndarray, ...]:
    """From the third on what `_WeightedPlanes` has."""
    rows, columns = zip(*(_stretches(source, grid) for source in sources), strict=True)
    return (
        np.array([source.shape[1] for source in sources]),
        np.array([source == grid for source in sources]),
        *(np.stack([getattr(axis, name) for axis in axes]) for axes in (rows, columns) for name in ("around", "frac")),
    )


def _flatten(planes: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(n,) the planes (K, rows, columns) as they lie in memory, and the steps from plane to plane and row to row. No
    copy where each row is one piece, as in a PNG that was inflated."""
    plane_pitch, row_pitch, pitch = planes.strides
    if pitch != 1 or row_pitch < planes.shape[2] or plane_pitch < planes.shape[1] * row_pitch:
        planes = np.ascontiguousarray(planes)
        plane_pitch, row_pitch, _ = planes.strides
    last = np.array(planes.shape) - 1
    size = int(last @ [plane_pitch, row_pitch, 1]) + 1
    return np.lib.stride_tricks.as_strided(planes[0, 0], (size,), (1,)), plane_pitch, row_pitch


def _span(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """One view of the memory from where the first of some arrays of bytes begins to where the last one ends, and where
    in it each of them does begin. It does not keep them alive, and what lies between them is not to be read.

    To copy all planes behind each other takes a fifteenth of the time of stage `fuse`.
    """
    addresses = [array.__array_interface__["data"][0] for array in arrays]
    begin = min(addresses)
    size = max(address + array.nbytes for address, array in zip(addresses, arrays, strict=True)) - begin
    first = arrays[addresses.index(begin)]
    return np.lib.stride_tricks.as_strided(first, (size,), (1,)), [address - begin for address in addresses]


def _sum_planes(planes: _WeightedPlanes, shape: tuple[int, ...]) -> np.ndarray:
    from antvisionps.fusion.semantic_kernels import sum_planes

    sums = np.zeros(shape, dtype=np.float32)
    sum_planes(*planes, sums)
    return sums


def _geometric_means(
    ends: Sequence[tuple[ImageSemantics, float]], *, grid: _Grid, categories: CategorySet
) -> tuple[np.ndarray, np.ndarray]:
    """Class indices as of `_weighted_planes`, and (K, rows, columns) float32 of `grid` that sum to 1 in each cell.

    A mean is proportional to exp Σ share · log(max(p, FLOOR) / FLOOR), to which a plane that is 0 adds nothing.
    """
    of_end = [_weighted_planes([(end, 1.0)], grid=grid, categories=categories) for end, _ in ends]
    planes_of_end = [(indices, _sum_planes(planes, (len(indices), *grid.shape))) for indices, planes, _ in of_end]
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
    from antvisionps.fusion.semantic_kernels import resample

    rows, columns = _stretches(source, target)
    resampled = np.empty(target.shape, dtype=np.float32)
    resample(np.ascontiguousarray(plane), rows.around, rows.frac, columns.around, columns.frac, resampled)
    return resampled
