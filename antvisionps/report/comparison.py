"""A page of several runs of the same images: each run is a system there, scored with intervals against the first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.evaluation.panoptic_quality import MatchCounts, total_counts
from antvisionps.evaluation.score_rows import CLASS_COLUMNS, INTERVAL_COLUMNS, class_rows, interval_rows
from antvisionps.evaluation.summary import summarize
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers
from antvisionps.report.image_data import ReportSources
from antvisionps.report.page import PhotoSizes, write_page

Json = dict[str, Any]
DIGITS = 4


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run by the name that the page gives it; what stage score counted of each image; its maps where they are at
    hand; and what the page says of it in words: label → text, or a list of them."""

    name: str
    counts: Mapping[ImageId, MatchCounts]
    fused: PanopticDataset | None
    facts: Mapping[str, str | Sequence[str]]


def write_comparison(
    out: Path,
    runs: Sequence[ComparedRun],
    truth: PanopticDataset,
    *,
    draws: np.ndarray,
    sizes: PhotoSizes,
    provenance: Json,
    workers: Workers,
) -> None:
    """Writes the page; `draws` are the bootstrap's, of the truth's images.

    Raises DataError where a run was scored on other images, or against another truth.
    """
    counts = {run.name: image_counts(run, truth) for run in runs}
    overview = {
        "compared": [{"name": run.name, "facts": list(run.facts.items())} for run in runs],
        "min_score": 0,
        "metrics": _metrics(counts, truth, draws),
        "provenance": provenance,
    }
    sources = ReportSources(truth=truth, fused={run.name: run.fused for run in runs}, counts=counts)
    write_page(out, sources, overview, sizes=sizes, workers=workers)


def image_counts(run: ComparedRun, truth: PanopticDataset) -> list[MatchCounts]:
    """The run's counts in the truth's order; an image that nothing was true or predicted of has none."""
    if strangers := set(run.counts) - {image.source_id for image in truth.images}:
        image_id = min(strangers, key=str)
        raise DataError(
            f"run {run.name} was scored on image {image_id}, which {truth.annotations} has not; compare runs of the "
            "same data set"
        )
    empty = total_counts([])
    ordered = [run.counts.get(image.source_id, empty) for image in truth.images]
    for image, counts in zip(truth.images, ordered, strict=True):
        if _true_segments(image) != _counted_segments(counts):
            raise DataError(
                f"run {run.name} was scored against other true segments of image {image.source_id} than "
                f"{truth.annotations} has; compare runs of the same data set, or score it again: `dvc repro score`"
            )
    return ordered


def _true_segments(image: PanopticImage) -> dict[int, int]:
    """category_id → number of its segments that count."""
    return Counter(segment.category_id for segment in image.segments if not segment.is_crowd)


def _counted_segments(counts: MatchCounts) -> dict[int, int]:
    numbers = zip(counts.category_ids.tolist(), (counts.tp + counts.fn).tolist(), strict=True)
    return {category_id: number for category_id, number in numbers if number}


def _metrics(counts: Mapping[str, Sequence[MatchCounts]], truth: PanopticDataset, draws: np.ndarray) -> Json:
    """As `read_metrics` gives them, without what needs more than the counts."""
    categories = truth.categories
    totals = {name: total_counts(of_images) for name, of_images in counts.items()}
    return {
        "summary": {name: summarize(total, categories) for name, total in totals.items()},
        "intervals": _records(INTERVAL_COLUMNS, interval_rows(counts, categories, draws)),
        "per_class": _records(CLASS_COLUMNS, class_rows(totals, categories)),
    }


def _records(columns: Sequence[str], rows: Any) -> list[Json]:
    rounded = ([round(cell, DIGITS) if isinstance(cell, float) else cell for cell in row] for row in rows)
    return [dict(zip(columns, row, strict=True)) for row in rounded]
