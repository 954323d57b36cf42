"""PQ of slices of a split, each with its interval."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.evaluation.score_rows import INTERVAL_COLUMNS, interval_rows
from antvisionps.panoptic.categories import CategorySet

SLICE_COLUMNS = ("attribute", "value", "images", *INTERVAL_COLUMNS)


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


def _pq_of_last(rows: Sequence[Sequence[object]], *, last: str) -> float:
    """PQ of all categories under one system; infinite without one."""
    for row in rows:
        cells = dict(zip(SLICE_COLUMNS, row, strict=True))
        if (cells["group"], cells["system"], cells["minus"]) == ("All", last, ""):
            return float("inf") if cells["PQ"] == "" else float(str(cells["PQ"]))
    return float("inf")
