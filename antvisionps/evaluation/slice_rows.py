"""PQ of slices of a split, each with its interval."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.evaluation.score_rows import INTERVAL_COLUMNS, interval_rows
from antvisionps.panoptic.categories import CategorySet

SLICE_COLUMNS = ("attribute", "value", "images", *INTERVAL_COLUMNS)
SLICE_MEAN_COLUMNS = ("attribute", "group", "system", "PQ_equal", "PQ_by_images", "worst", "PQ_worst")


def slice_rows(
    counts: Mapping[str, Sequence[MatchCounts]],
    slices: Mapping[tuple[str, str], np.ndarray],
    categories: CategorySet,
    *,
    samples: int,
    seed: int,
) -> Iterator[list[object]]:
    """The rows of `interval_rows` of each slice, (attribute, value) → positions of its images; samples are drawn from
    the slice's images. Slices stand attribute by attribute, of each the one first whose PQ of all categories is least
    under the last system."""
    found = []
    for (attribute, value), positions in slices.items():
        of_slice = {name: [images[position] for position in positions] for name, images in counts.items()}
        draws = draw_images(len(positions), samples=samples, seed=seed)
        rows = [[attribute, value, len(positions), *row] for row in interval_rows(of_slice, categories, draws)]
        found.append((attribute, _pq_of_last(rows, last=[*counts][-1]), rows))
    for _, _, rows in sorted(found, key=lambda of_slice: of_slice[:2]):
        yield from rows


def slice_mean_rows(rows: Iterable[Sequence[Any]]) -> Iterator[list[object]]:
    """SLICE_MEAN_COLUMNS of each attribute, group and system, from what `slice_rows` gives: the mean PQ of the slices,
    each counted alike and each by its images, and the worst slice, of equal ones the first. A slice without a PQ does
    not count; nothing of none."""
    of_key: dict[tuple[str, ...], list[tuple[float, int, str]]] = {}
    for row in rows:
        cells = dict(zip(SLICE_COLUMNS, row, strict=True))
        if cells["minus"] is None and cells["PQ"] is not None:
            names = (cells["attribute"], cells["group"], cells["system"])
            of_key.setdefault(names, []).append((cells["PQ"], cells["images"], cells["value"]))
    for key, slices in of_key.items():
        pqs, images, _ = zip(*slices, strict=True)
        worst_pq, _, worst = min(slices, key=lambda of_slice: of_slice[0])
        yield [*key, float(np.mean(pqs)), float(np.average(pqs, weights=images)), worst, worst_pq]


def _pq_of_last(rows: Sequence[Sequence[Any]], *, last: str) -> float:
    """PQ of all categories under one system; infinite without one."""
    for row in rows:
        cells = dict(zip(SLICE_COLUMNS, row, strict=True))
        if (cells["group"], cells["system"], cells["minus"]) == ("All", last, None):
            return float("inf") if cells["PQ"] is None else float(cells["PQ"])
    return float("inf")
