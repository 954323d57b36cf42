"""What stage `score` does: PQ, SQ and RQ of every fused system on the val split, with tables and pictures."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.json_files import write_json
from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.segment_scores import SegmentMaps, SegmentScores, score_segments
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segment_runs import RUNS_FILE, SegmentRunsReader, images_of_group
from antvisionps.panoptic.slices import read_slices
from antvisionps.panoptic.splits import runs_path
from antvisionps.parallel.images import Workers, map_images, open_workers
from antvisionps.params.whole import Params
from antvisionps.pipeline.error_budget import BUDGET_FILE, write_budget
from antvisionps.pipeline.ignored import describe_ignored
from antvisionps.pipeline.score_ends import NO_ENDS, write_curves, write_ends
from antvisionps.pipeline.score_files import (
    read_fused_confidence,
    segment_reliabilities,
    write_coverage,
    write_image_counts,
    write_lrp,
    write_metrics,
    write_reliability,
    write_slices,
)
from antvisionps.pipeline.score_predictions import measure_predictions
from antvisionps.pipeline.settings import system_settings
from antvisionps.predictions.fused_files import open_fused
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.overlays import draw_overlay, panel_hw, shrink_map, shrink_photo, side_by_side
from antvisionps.report.provenance import provenance
from antvisionps.report.score_tables import Summary, write_ignored

PROVENANCE_FILE = "provenance.json"
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
    scores: Path,
    with_budget: bool = True,
) -> Summary:
    """Writes the metrics into OUT, and into SCORES the counts of each image, the curves of each class and the pictures;
    returns what panoptic.json holds."""
    caches = SplitCaches.open(predictions, prepared, "val", promised=params.promised_kinds())
    truth = caches.dataset
    systems = {name: open_fused(fused / name, truth) for name in params.fuse.systems}
    slices = read_slices(Path(params.score.slices), truth.images) if params.score.slices else {}
    places = {"routing": routing, "calibration": calibration}
    settings = [system_settings(name, params, categories=truth.categories, **places) for name in systems]
    with atomic_folder(out) as folder, atomic_folder(scores) as large:
        with open_workers(**params.runtime.worker_arguments()) as workers:
            scored = score_systems(
                truth, systems, prepared=prepared, with_boundary=params.score.boundary_pq, workers=workers
            )
            budget, ends = (
                measure_predictions(params, caches, **places, workers=workers) if with_budget else ({}, NO_ENDS)
            )
        draws = draw_images(len(truth.images), samples=params.score.bootstrap_samples, seed=params.score.seed)
        counts = {name: of.matches.counts() for name, of in scored.items()}
        summary = write_metrics(folder, scored, counts, truth, draws)
        write_image_counts(large, counts, truth)
        read = {name: read_fused_confidence(fused) for name, fused in systems.items()}
        confidence, sureness = ({name: pair[place] for name, pair in read.items()} for place in (0, 1))
        write_lrp(folder, scored, confidence, truth)
        write_reliability(folder, ends.reliabilities() | segment_reliabilities(scored, confidence))
        write_coverage(folder, scored, sureness, truth.categories)
        write_slices(folder, params.score, slices, counts, truth.categories)
        write_ends(folder, ends, truth.categories)
        write_curves(large, ends)
        write_budget(folder / BUDGET_FILE, budget, truth.categories)
        write_json(folder / PROVENANCE_FILE, provenance(caches, params.all_ends if with_budget else []))
        write_ignored(folder, describe_ignored(params, settings))
        write_overlays(large / "overlays", truth, systems, images=params.score.overlay_images)
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
    gt_runs = open_gt_runs(truth, prepared)
    runs_of = {
        name: SegmentRunsReader(fused.annotations.parent / RUNS_FILE, fused.images, remedy="run `dvc repro fuse`")
        for name, fused in systems.items()
    }

    def read(reader: SegmentRunsReader, dataset: PanopticDataset, group: int) -> SegmentMaps:
        images = images_of_group(dataset.images, group)
        segments = [image.segments for image in images]
        sizes_hw = [(image.height, image.width) for image in images]
        return SegmentMaps.of(reader.read(group), segments, sizes_hw=sizes_hw, with_bands=with_boundary)

    def score(group: int) -> list[SegmentScores]:
        gt = read(gt_runs, truth, group)
        return [score_segments(gt, read(runs_of[name], fused, group)) for name, fused in systems.items()]

    return score


def write_overlays(
    folder: Path, truth: PanopticDataset, systems: Mapping[str, PanopticDataset], *, images: int
) -> None:
    """Makes the folder, with a picture for each of the first images: photo, truth, every system. Large images are
    shrunk before they are drawn."""
    folder.mkdir()
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
