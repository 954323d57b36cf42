"""What stage `score` does: PQ, SQ and RQ of every fused system on the val split, with tables and pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.csv_files import write_csv
from antvisionps.evaluation.bootstrap import draw_images
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
from antvisionps.evaluation.segment_scores import SegmentMaps, SegmentScores, score_segments
from antvisionps.evaluation.slice_rows import SLICE_COLUMNS, slice_rows
from antvisionps.evaluation.summary import summarize
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segment_runs import RUNS_FILE, SegmentRunsReader, images_of_group
from antvisionps.panoptic.slices import read_slices
from antvisionps.panoptic.splits import runs_path
from antvisionps.parallel.images import Workers, map_images, open_workers
from antvisionps.params.fusion import Score
from antvisionps.params.whole import Params
from antvisionps.pipeline.error_budget import BUDGET_FILE, error_budget, write_budget
from antvisionps.pipeline.ignored import describe_ignored
from antvisionps.pipeline.score_ends import NO_ENDS, measure_ends, write_ends
from antvisionps.pipeline.settings import system_settings
from antvisionps.predictions.fused_files import SEGMENTS, RowsByImage, open_fused
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.overlays import draw_overlay, panel_hw, shrink_map, shrink_photo, side_by_side
from antvisionps.report.score_tables import Summary, per_image_schema, write_ignored

BOUNDARY = "boundary_"
"""What the names of the files of boundary PQ begin with."""

PICTURE_SETTINGS = (cv2.IMWRITE_PNG_COMPRESSION, 3)


def score(
    params: Params,
    *,
    prepared: Path,
    predictions: Path,
    routing: Path,
    calibration: Path,
    fused: Path,
    out: Path,
    overlays: Path,
    with_budget: bool = True,
) -> Summary:
    """Writes the metrics and the pictures, and returns what panoptic.json holds."""
    caches = SplitCaches.open(predictions, prepared, "val", promised=params.promised_kinds())
    truth = caches.dataset
    systems = {name: open_fused(fused / name, truth) for name in params.fuse.systems}
    places = {"routing": routing, "calibration": calibration}
    settings = [system_settings(name, params, categories=truth.categories, **places) for name in systems]
    with atomic_folder(out) as folder, atomic_folder(overlays) as pictures:
        with open_workers(**params.runtime.worker_arguments()) as workers:
            scores = score_systems(
                truth, systems, prepared=prepared, with_boundary=params.score.boundary_pq, workers=workers
            )
            budget = error_budget(params, caches, **places, workers=workers) if with_budget else {}
            ends = measure_ends(caches, params.all_ends, workers=workers) if with_budget else NO_ENDS
        draws = draw_images(len(truth.images), samples=params.score.bootstrap_samples, seed=params.score.seed)
        summary = write_metrics(folder, scores, truth, draws)
        confidence = {name: read_confidence(fused) for name, fused in systems.items()}
        write_lrp(folder, scores, confidence, truth)
        write_reliability(folder, ends.reliabilities() | segment_reliabilities(scores, confidence))
        write_slices(folder, params.score, scores, truth)
        write_ends(folder, ends, truth.categories)
        write_budget(folder / BUDGET_FILE, budget, truth.categories)
        write_ignored(folder, describe_ignored(params.fuse, settings))
        write_overlays(pictures, truth, systems, images=params.score.overlay_images)
    return summary


def score_systems(
    truth: PanopticDataset,
    systems: Mapping[str, PanopticDataset],
    *,
    prepared: Path,
    with_boundary: bool,
    workers: Workers,
) -> dict[str, SegmentScores]:
    """System → what its segments count in all images, in the order of the truth's."""
    open_work = partial(_open_scoring, truth, systems, prepared, with_boundary)
    groups = range(len(open_gt_runs(truth, prepared)))

    def images_of(group: int) -> int:
        return len(images_of_group(truth.images, group))

    found = map_images(open_work, groups, workers=workers, description="score", images_of_item=images_of)
    return {name: SegmentScores.join(parts) for name, parts in zip(systems, zip(*found, strict=True), strict=True)}


def open_gt_runs(truth: PanopticDataset, prepared: Path) -> SegmentRunsReader:
    return SegmentRunsReader(runs_path(prepared), truth.images, remedy="run `dvc repro prepare`")


def _open_scoring(
    truth: PanopticDataset, systems: Mapping[str, PanopticDataset], prepared: Path, with_boundary: bool
) -> Callable[[int], list[SegmentScores]]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    gt_runs = open_gt_runs(truth, prepared)
    runs_of = {
        name: SegmentRunsReader(fused.annotations.parent / RUNS_FILE, fused.images, remedy="run `dvc repro fuse`")
        for name, fused in systems.items()
    }

    def read(reader: SegmentRunsReader, dataset: PanopticDataset, group: int) -> SegmentMaps:
        images = images_of_group(dataset.images, group)
        segments, sizes_hw = (
            [*column] for column in zip(*((i.segments, (i.height, i.width)) for i in images), strict=True)
        )
        return SegmentMaps.of(reader.read(group), segments, sizes_hw=sizes_hw, with_bands=with_boundary)

    def score(group: int) -> list[SegmentScores]:
        gt = read(gt_runs, truth, group)
        return [score_segments(gt, read(runs_of[name], fused, group)) for name, fused in systems.items()]

    return score


def write_metrics(
    folder: Path, scores: Mapping[str, SegmentScores], truth: PanopticDataset, draws: np.ndarray
) -> Summary:
    """Writes all metrics of segments and returns what panoptic.json holds; `draws` are the bootstrap's."""
    categories = truth.categories
    summary = _write_quality(folder, "", {name: of.matches for name, of in scores.items()}, truth)
    boundary = {name: of.boundary for name, of in scores.items() if of.boundary is not None}
    _write_quality(folder, BOUNDARY, boundary, truth)
    errors = {name: of.errors for name, of in scores.items()}
    write_csv(folder / "error_kinds.csv", ERROR_COLUMNS, error_rows(errors, categories))
    write_csv(folder / "error_kinds_per_class.csv", CLASS_ERROR_COLUMNS, class_error_rows(errors, categories))
    counts = {name: of.matches.counts() for name, of in scores.items()}
    write_csv(folder / "intervals.csv", INTERVAL_COLUMNS, interval_rows(counts, categories, draws))
    pq.write_table(
        _per_image_table(counts, truth), folder / "per_image.parquet", compression="zstd", write_page_checksum=True
    )
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


def read_confidence(fused: PanopticDataset) -> SegmentConfidence:
    """The scores of a system's things."""
    table = RowsByImage(fused.annotations.parent, SEGMENTS, fused).table
    image_ids, segment_ids, scores = (table[name].to_numpy() for name in ("image_id", "segment_id", "score"))
    is_known = ~np.isnan(scores)
    positions = np.searchsorted([image.image_id for image in fused.images], image_ids[is_known])
    return SegmentConfidence.of(positions, segment_ids[is_known], scores[is_known].astype(np.float64))


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


def write_slices(folder: Path, settings: Score, scores: Mapping[str, SegmentScores], truth: PanopticDataset) -> None:
    """slices.csv, empty where the params name no file of them."""
    slices = read_slices(Path(settings.slices), truth.images) if settings.slices else {}
    counts = {name: of.matches.counts() for name, of in scores.items()}
    drawn = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    write_csv(folder / "slices.csv", SLICE_COLUMNS, slice_rows(counts, slices, truth.categories, **drawn))


def _write_quality(folder: Path, prefix: str, matches: Mapping[str, SegmentMatches], truth: PanopticDataset) -> Summary:
    """panoptic.json, per_class.csv and per_size.csv; returns what the first holds."""
    totals = {name: total_counts(of_system.counts()) for name, of_system in matches.items()}
    summary = {name: summarize(total, truth.categories) for name, total in totals.items()}
    (folder / f"{prefix}panoptic.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    write_csv(folder / f"{prefix}per_class.csv", CLASS_COLUMNS, class_rows(totals, truth.categories))
    write_csv(folder / f"{prefix}per_size.csv", SIZE_COLUMNS, size_rows(matches, truth.categories))
    return summary


def _per_image_table(counts: Mapping[str, Sequence[MatchCounts]], truth: PanopticDataset) -> pa.Table:
    """Images have the data set's own ids, so where these are text the column is."""
    source_ids = [image.source_id for image in truth.images]
    schema = per_image_schema(text_ids=isinstance(source_ids[0], str))
    return pa.concat_tables(pa.table(columns, schema=schema) for columns in image_columns(counts, source_ids))


def write_overlays(
    folder: Path, truth: PanopticDataset, systems: Mapping[str, PanopticDataset], *, images: int
) -> None:
    """A picture for each of the first images: photo, truth, every system. Large images are shrunk before they are
    drawn."""
    for index, image in enumerate(truth.images[:images]):
        hw = panel_hw((image.height, image.width))
        photo = shrink_photo(truth.load_photo(image), hw)
        panels = [("photo", photo)]
        for name, dataset in {"truth": truth, **systems}.items():
            shown = dataset.images[index]
            ids = shrink_map(dataset.load_segment_ids(shown), hw)
            panels.append((name, draw_overlay(photo, ids, shown.segments, truth.categories)))
        picture = side_by_side(panels)
        encoded = cv2.imencode(".png", picture[..., ::-1], PICTURE_SETTINGS)[1]
        (folder / f"{image.image_id:012d}.png").write_bytes(encoded.tobytes())
