"""Where ends differ: the Jensen-Shannon divergence of their semantic probabilities.

H(mean of the ends) − mean of H(an end), over its largest value, the logarithm of the number of ends: 0 where all ends
say the same, 1 where each is sure of another class. With ensembles it is the part of doubt that more data could remove
(Depeweg et al. 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.predictions.semantic import ImageSemantics

DISAGREEMENT_COLUMNS = ("category", "cells", "disagreement", "differ", "wrong_where_same", "wrong_where_differ")


class Disagreement(NamedTuple):
    """On the cells of an end's grid whose centre lies on the photo: `divergence` (rows, columns) float32 from 0
    to 1, `differs` whether the ends' likeliest classes do, `likeliest` the class index of the largest mean; and the
    pixels of the photo below their centres, `rows` and `columns`."""

    divergence: np.ndarray
    differs: np.ndarray
    likeliest: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def at_pixels(self, hw: tuple[int, int]) -> np.ndarray:
        """(H, W) the divergence of the cell whose centre is nearest to each pixel."""
        rows, columns = (_nearest(centres, pixels) for centres, pixels in zip(self[3:], hw, strict=True))
        return self.divergence[np.ix_(rows, columns)]


def disagreement(
    ends: Sequence[ImageSemantics], categories: CategorySet, *, grid: Literal["finest", "coarsest"]
) -> Disagreement:
    """Of two ends or more, of one image. The others are read at the cell below each centre of the grid; probabilities
    are taken to sum to 1 in each cell; of equal ones the lowest class index is the likeliest."""
    choose = max if grid == "finest" else min
    rows, columns = choose(ends, key=lambda end: end.planes[0].size).pixels_of_cells()
    listed = sorted({categories.class_index(key) for end in ends for key in end.category_ids.tolist()})
    probs = np.zeros((len(ends), len(listed), len(rows), len(columns)), dtype=np.float32)
    for of_end, end in zip(probs, ends, strict=True):
        places = [listed.index(categories.class_index(key)) for key in end.category_ids.tolist()]
        of_end[places] = _probabilities(end, rows, columns)
    mean = probs.mean(axis=0)
    divergence = _entropy(mean) - _entropy(probs).mean(axis=0)
    of_each = _likeliest(probs)
    return Disagreement(
        np.clip(divergence / np.log(len(ends)), 0, 1).astype(np.float32),
        (of_each != of_each[0]).any(axis=0),
        np.array(listed)[_likeliest(mean)],
        rows,
        columns,
    )


def _probabilities(end: ImageSemantics, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(planes, rows, columns) float32 of the cells below these pixels of the photo."""
    below = [
        ((pixels + 0.5) * input_px / size_px / end.stride).astype(np.int64)
        for pixels, input_px, size_px in ((rows, end.input_height, end.height), (columns, end.input_width, end.width))
    ]
    cells = np.ix_(*(np.minimum(own, count - 1) for own, count in zip(below, end.planes.shape[1:], strict=True)))
    probs = end.planes[:, *cells].astype(np.float32)
    sums = probs.sum(axis=0)
    return probs / np.where(sums > 0, sums, np.float32(1))


def _entropy(probs: np.ndarray) -> np.ndarray:
    """Over the classes, the third axis from the end; 0 · log 0 is 0."""
    return np.asarray(-(probs * np.log(np.maximum(probs, np.finfo(probs.dtype).tiny))).sum(axis=-3))


def _likeliest(probs: np.ndarray) -> np.ndarray:
    """Of the classes, the third axis from the end, the first of the largest probability."""
    largest = probs.max(axis=-3)
    likeliest = np.empty(largest.shape, dtype=np.intp)
    for place in reversed(range(probs.shape[-3])):  # half the time of argmax over this axis
        likeliest[probs[..., place, :, :] == largest] = place
    return likeliest


def _nearest(centres: np.ndarray, pixels: int) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, np.arange(pixels), side="right")


@dataclass(frozen=True, eq=False)
class DisagreementCounts:
    """(classes, 5) float64, of the cells of each true class: how many, the sum of the divergence, in how many the ends
    differ; and how many of the same and of the differing cells the mean of the ends has wrong."""

    sums: np.ndarray

    @classmethod
    def of(
        cls, found: Disagreement, gt_ids: np.ndarray, image: PanopticImage, categories: CategorySet
    ) -> DisagreementCounts:
        """gt_ids (H, W) segment ids of the image. Cells on void do not count."""
        gt = class_index_map(gt_ids[np.ix_(found.rows, found.columns)], image, categories)
        counts = gt != VOID_CLASS_INDEX
        is_wrong, differs = (found.likeliest != gt)[counts], found.differs[counts]
        weights = (np.ones(len(differs)), found.divergence[counts], differs, is_wrong & ~differs, is_wrong & differs)
        columns = [np.bincount(gt[counts], weights=of, minlength=len(categories)) for of in weights]
        return cls(np.stack(columns, axis=1))

    @classmethod
    def total(cls, parts: Sequence[DisagreementCounts]) -> DisagreementCounts:
        return cls(np.sum([part.sums for part in parts], axis=0))


def disagreement_rows(counts: DisagreementCounts, categories: CategorySet) -> Iterator[list[object]]:
    """DISAGREEMENT_COLUMNS of all cells and of each category that has some; in percent."""
    yield from _rows("All", counts.sums.sum(axis=0))
    for category, sums in zip(categories.categories, counts.sums, strict=True):
        yield from _rows(category.name, sums)


def _rows(name: str, sums: np.ndarray) -> Iterator[list[object]]:
    cells, divergence, differ, wrong_same, wrong_differ = sums.tolist()
    if cells:
        parts = ((wrong_same, cells - differ), (wrong_differ, differ))
        wrong = [100 * part / whole if whole else None for part, whole in parts]
        yield [name, int(cells), 100 * divergence / cells, 100 * differ / cells, *wrong]
