"""The tables that stage `score` writes of the segments of the fused systems; docs/metrics.md has their columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.csv_files import write_csv
from antvisionps.core.json_files import write_json
from antvisionps.evaluation.coverage import COVERAGE_COLUMNS, coverage_rows
from antvisionps.evaluation.lrp import SegmentConfidence, SystemLrp
from antvisionps.evaluation.panoptic_quality import MatchCounts, SegmentMatches, total_counts
from antvisionps.evaluation.reliability import (
    CALIBRATION_COLUMNS,
    RELIABILITY_COLUMNS,
    Reliability,
    calibration_rows,
    reliability_rows,
)
from antvisionps.evaluation.score_rows import (
    CLASS_COLUMNS,
    CLASS_ERROR_COLUMNS,
    CLASS_LRP_COLUMNS,
    ERROR_COLUMNS,
    INTERVAL_COLUMNS,
    LRP_COLUMNS,
    SIZE_COLUMNS,
    class_error_rows,
    class_lrp_rows,
    class_rows,
    error_rows,
    image_columns,
    interval_rows,
    lrp_rows,
    size_rows,
)
from antvisionps.evaluation.segment_scores import SegmentScores
from antvisionps.evaluation.slice_rows import SLICE_COLUMNS, SLICE_MEAN_COLUMNS, slice_mean_rows, slice_rows
from antvisionps.evaluation.summary import summarize
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.slices import Slices
from antvisionps.params.fusion import Score
from antvisionps.predictions.fused_files import SEGMENTS, RowsByImage
from antvisionps.report.score_tables import IMAGE_COUNTS_FILE, Summary, per_image_schema

Counts = Mapping[str, Sequence[MatchCounts]]
"""System → of each image."""

BOUNDARY = "boundary_"
"""What the names of the files of boundary PQ begin with."""


def write_metrics(
    folder: Path, scores: Mapping[str, SegmentScores], counts: Counts, truth: PanopticDataset, draws: np.ndarray
) -> Summary:
    """Writes all metrics of segments and returns what panoptic.json holds; `draws` are the bootstrap's."""
    categories = truth.categories
    summary = _write_quality(folder, "", {name: of.matches for name, of in scores.items()}, counts, truth)
    boundary = {name: of.boundary for name, of in scores.items() if of.boundary is not None}
    _write_quality(folder, BOUNDARY, boundary, {name: of.counts() for name, of in boundary.items()}, truth)
    errors = {name: of.errors for name, of in scores.items()}
    write_csv(folder / "error_kinds.csv", ERROR_COLUMNS, error_rows(errors, categories))
    write_csv(folder / "error_kinds_per_class.csv", CLASS_ERROR_COLUMNS, class_error_rows(errors, categories))
    write_csv(folder / "intervals.csv", INTERVAL_COLUMNS, interval_rows(counts, categories, draws))
    return summary


def write_lrp(
    folder: Path,
    scores: Mapping[str, SegmentScores],
    confidence: Mapping[str, SegmentConfidence],
    truth: PanopticDataset,
) -> None:
    errors = {name: SystemLrp.of(of.matches, confidence[name]) for name, of in scores.items()}
    write_csv(folder / "lrp.csv", LRP_COLUMNS, lrp_rows(errors, truth.categories))
    write_csv(folder / "lrp_per_class.csv", CLASS_LRP_COLUMNS, class_lrp_rows(errors, truth.categories))


def read_fused_confidence(fused: PanopticDataset) -> tuple[SegmentConfidence, SegmentConfidence]:
    """The scores of a system's things, and how sure it is of its segments: the probability of each where its method
    gives one, else the score."""
    rows = RowsByImage(fused.annotations.parent, SEGMENTS, fused)
    names = ("image_id", "segment_id", "score", "probability")
    image_ids, segment_ids, scores, probabilities = map(rows.numbers, names)
    positions = np.searchsorted([image.image_id for image in fused.images], image_ids)

    def of_known(values: np.ndarray) -> SegmentConfidence:
        known = ~np.isnan(values)
        return SegmentConfidence.of(positions[known], segment_ids[known], values[known].astype(np.float64))

    return of_known(scores), of_known(np.where(np.isnan(probabilities), scores, probabilities))


def write_coverage(
    folder: Path,
    scores: Mapping[str, SegmentScores],
    sureness: Mapping[str, SegmentConfidence],
    categories: CategorySet,
) -> None:
    matches = {name: of.matches for name, of in scores.items()}
    write_csv(folder / "coverage.csv", COVERAGE_COLUMNS, coverage_rows(matches, sureness, categories))


def segment_reliabilities(
    scores: Mapping[str, SegmentScores], confidence: Mapping[str, SegmentConfidence]
) -> dict[tuple[str, str], Reliability]:
    """Of the scores of the things in a system's maps; a matched one is right, one that PQ forgives does not count."""
    found = {}
    for name, of in scores.items():
        right, wrong = (
            confidence[name].of_segments(segments) for segments in (of.matches.matched_by, of.matches.wrong)
        )
        all_scores = np.concatenate([right, wrong])
        is_right = np.arange(len(all_scores)) < len(right)
        is_known = ~np.isnan(all_scores)
        found[name, "segments"] = Reliability.of(all_scores[is_known], is_right[is_known])
    return found


def write_reliability(folder: Path, reliabilities: Mapping[tuple[str, str], Reliability]) -> None:
    write_csv(folder / "reliability.csv", RELIABILITY_COLUMNS, reliability_rows(reliabilities))
    write_csv(folder / "calibration_error.csv", CALIBRATION_COLUMNS, calibration_rows(reliabilities))


def write_slices(folder: Path, settings: Score, slices: Slices, counts: Counts, categories: CategorySet) -> None:
    """slices.csv and slice_means.csv, empty without slices."""
    drawn = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    rows = list(slice_rows(counts, slices, categories, **drawn))
    write_csv(folder / "slices.csv", SLICE_COLUMNS, rows)
    write_csv(folder / "slice_means.csv", SLICE_MEAN_COLUMNS, slice_mean_rows(rows))


def _write_quality(
    folder: Path, prefix: str, matches: Mapping[str, SegmentMatches], counts: Counts, truth: PanopticDataset
) -> Summary:
    """panoptic.json, per_class.csv and per_size.csv; returns what the first holds."""
    totals = {name: total_counts(of_system) for name, of_system in counts.items()}
    summary = {name: summarize(total, truth.categories) for name, total in totals.items()}
    write_json(folder / f"{prefix}panoptic.json", summary)
    write_csv(folder / f"{prefix}per_class.csv", CLASS_COLUMNS, class_rows(totals, truth.categories))
    write_csv(folder / f"{prefix}per_size.csv", SIZE_COLUMNS, size_rows(matches, truth.categories))
    return summary


def write_image_counts(folder: Path, counts: Counts, truth: PanopticDataset) -> None:
    """per_image.parquet. Images have the data set's own ids, so where these are text the column is."""
    source_ids = [image.source_id for image in truth.images]
    schema = per_image_schema(text_ids=isinstance(source_ids[0], str))
    table = pa.concat_tables(pa.table(columns, schema=schema) for columns in image_columns(counts, source_ids))
    pq.write_table(table, folder / IMAGE_COUNTS_FILE, compression="zstd", write_page_checksum=True)
