"""`antvisionps score …`: panoptic quality of predictions in the COCO panoptic format, of any tool's."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antvisionps.cli.workers import add_workers_option, chosen_workers

if TYPE_CHECKING:
    from antvisionps.evaluation.lrp import SegmentConfidence
    from antvisionps.evaluation.panoptic_quality import MatchCounts, SegmentMatches
    from antvisionps.evaluation.segment_scores import SegmentScores
    from antvisionps.panoptic.dataset import PanopticDataset

SAMPLES, SEED = 1000, 0
"""Resampled sets of images, of which the intervals are."""

FORMATS = {"min_score": ".3f", "min_confidence": ".3f"}
"""Of what is no percentage."""

DESCRIPTION = (
    "PQ, SQ and RQ of all categories, of things, of stuff and of every category, equal to panopticapi's. DIR holds the "
    "PNGs that JSON names; maps of a prediction may also be .npy files, and its segments_info Hugging Face's. With "
    "--pred given several times, predictions stand side by side."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("score", help="panoptic quality of any tool's predictions", description=DESCRIPTION)
    files: dict[str, Any] = {"nargs": 2, "type": Path, "required": True, "metavar": ("JSON", "DIR")}
    parser.add_argument("--gt", **files, help="the truth, in the COCO panoptic format")
    parser.add_argument("--pred", action="append", **files, help="a prediction of every image of the truth")
    parser.add_argument(
        "--intervals", action="store_true", help="PQ with 95%% intervals over images, and of differences between --pred"
    )
    parser.add_argument("--boundary", action="store_true", help="boundary PQ, too: of min(mask IoU, boundary IoU)")
    parser.add_argument("--errors", action="store_true", help="what PQ is lost to, by kinds that add up")
    parser.add_argument(
        "--lrp",
        action="store_true",
        help="localisation recall precision error, and the best score threshold of each thing",
    )
    parser.add_argument(
        "--coverage", action="store_true", help="PQ where the segments of the lowest scores are left to a person"
    )
    parser.add_argument(
        "--slices", type=Path, metavar="CSV", help="PQ of images by their attributes, columns beside file_name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each category, too")
    parser.add_argument(
        "--per-image", type=Path, metavar="FILE", help="write the counts of each image and category as CSV, too"
    )
    add_workers_option(parser)
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> None:
    from antvisionps.evaluation.bootstrap import draw_images
    from antvisionps.evaluation.score_rows import INTERVAL_COLUMNS, interval_rows
    from antvisionps.evaluation.slice_rows import SLICE_COLUMNS, SLICE_MEAN_COLUMNS, slice_mean_rows, slice_rows
    from antvisionps.panoptic.slices import read_slices
    from antvisionps.pipeline.score_results import read_scores, score_results

    predictions = {name: tuple(files) for name, files in zip(_names(args.pred), args.pred, strict=True)}
    truth, scores = score_results(
        tuple(args.gt), predictions, workers=chosen_workers(args), with_boundary=args.boundary, bar="score"
    )
    slices = read_slices(args.slices, truth.images) if args.slices else {}
    counts = {name: of_name.matches.counts() for name, of_name in scores.items()}
    found = _quality({name: of_name.matches for name, of_name in scores.items()}, truth)
    if args.boundary:
        boundary = {name: of_name.boundary for name, of_name in scores.items() if of_name.boundary is not None}
        found["boundary"] = _quality(boundary, truth)
    if args.intervals:
        draws = draw_images(len(truth.images), samples=SAMPLES, seed=SEED)
        found["intervals"] = _records(INTERVAL_COLUMNS, interval_rows(counts, truth.categories, draws))
    if args.errors:
        found["errors"] = _errors(scores, truth)
    if args.lrp or args.coverage:
        confidence = {name: read_scores(files, truth) for name, files in predictions.items()}
        if args.lrp:
            found["lrp"] = _lrp(scores, confidence, truth)
        if args.coverage:
            found["coverage"] = _coverage(scores, confidence, truth)
    if args.slices:
        rows = list(slice_rows(counts, slices, truth.categories, samples=SAMPLES, seed=SEED))
        found["slices"] = _records(SLICE_COLUMNS, rows)
        found["slice_means"] = _records(SLICE_MEAN_COLUMNS, slice_mean_rows(rows))
    _write(args, found, counts, truth)
    _print(args, found)


def _quality(matches: Mapping[str, SegmentMatches], truth: PanopticDataset) -> dict[str, Any]:
    from antvisionps.evaluation.panoptic_quality import total_counts
    from antvisionps.evaluation.score_rows import CLASS_COLUMNS, class_rows
    from antvisionps.evaluation.summary import summarize

    totals = {name: total_counts(of_name.counts()) for name, of_name in matches.items()}
    return {
        "summary": {name: summarize(total, truth.categories) for name, total in totals.items()},
        "classes": _records(CLASS_COLUMNS, class_rows(totals, truth.categories)),
    }


def _errors(scores: Mapping[str, SegmentScores], truth: PanopticDataset) -> dict[str, Any]:
    from antvisionps.evaluation.score_rows import CLASS_ERROR_COLUMNS, ERROR_COLUMNS, class_error_rows, error_rows

    errors = {name: of_name.errors for name, of_name in scores.items()}
    return {
        "groups": _records(ERROR_COLUMNS, error_rows(errors, truth.categories)),
        "classes": _records(CLASS_ERROR_COLUMNS, class_error_rows(errors, truth.categories)),
    }


def _lrp(
    scores: Mapping[str, SegmentScores], confidence: Mapping[str, SegmentConfidence], truth: PanopticDataset
) -> dict[str, Any]:
    from antvisionps.evaluation.lrp import SystemLrp
    from antvisionps.evaluation.score_rows import CLASS_LRP_COLUMNS, LRP_COLUMNS, class_lrp_rows, lrp_rows

    errors = {name: SystemLrp.of(of_name.matches, confidence[name]) for name, of_name in scores.items()}
    return {
        "groups": _records(LRP_COLUMNS, lrp_rows(errors, truth.categories)),
        "classes": _records(CLASS_LRP_COLUMNS, class_lrp_rows(errors, truth.categories)),
    }


def _coverage(
    scores: Mapping[str, SegmentScores], confidence: Mapping[str, SegmentConfidence], truth: PanopticDataset
) -> list[dict[str, Any]]:
    from antvisionps.evaluation.coverage import COVERAGE_COLUMNS, coverage_rows

    matches = {name: of_name.matches for name, of_name in scores.items()}
    return _records(COVERAGE_COLUMNS, coverage_rows(matches, confidence, truth.categories))


def _names(predictions: Sequence[Sequence[Path]]) -> list[str]:
    """How the predictions are called: by the first of these that tells them apart."""
    for name_of in (lambda files: files[0].stem, lambda files: files[1].name, lambda files: files[0].parent.name):
        names = [name_of(files) for files in predictions]
        if len({*names}) == len(names) and all(names):
            return names
    return [f"{position} {annotations}" for position, (annotations, _) in enumerate(predictions, start=1)]


def _records(columns: Sequence[str], rows: Any) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _write(
    args: argparse.Namespace,
    found: Mapping[str, Any],
    counts: Mapping[str, Sequence[MatchCounts]],
    truth: PanopticDataset,
) -> None:
    from antvisionps.core.atomic import atomic_file
    from antvisionps.core.csv_files import write_csv
    from antvisionps.evaluation.score_rows import CLASS_COLUMNS, IMAGE_COLUMNS, image_columns

    if args.csv:
        with atomic_file(args.csv) as path:
            write_csv(path, CLASS_COLUMNS, [[*record.values()] for record in found["classes"]])
    if args.per_image:
        image_ids = [image.source_id for image in truth.images]
        with atomic_file(args.per_image) as path:
            rows = (row for columns in image_columns(counts, image_ids) for row in zip(*columns, strict=True))
            write_csv(path, IMAGE_COLUMNS, rows)


def _print(args: argparse.Namespace, found: Mapping[str, Any]) -> None:
    from antvisionps.report.pq_table import print_pq
    from antvisionps.report.tables import print_json, print_table

    if args.json:
        print_json(found)
        return
    print_table("By category, percent", found["classes"])
    if args.intervals:
        print_table(f"PQ with 95 % intervals over images ({SAMPLES} samples)", found["intervals"])
    if args.errors:
        for by, title in (("classes", "category and kind of error"), ("groups", "kind of error")):
            print_table(f"PQ lost by {title}, percent points", _by_kind(found["errors"][by]))
    if args.lrp:
        print_table("LRP by category, percent, as it is and from the best score on", found["lrp"]["classes"], FORMATS)
        print_table("LRP, percent", found["lrp"]["groups"])
    if args.coverage:
        print_table("PQ by the segments that are kept, percent", found["coverage"], FORMATS)
    if args.slices:
        print_table(f"PQ of slices with 95 % intervals ({SAMPLES} samples)", found["slices"])
        print_table("Mean PQ of the slices, each alike and by its images, and the worst", found["slice_means"])
    if args.boundary:
        print_table("Boundary quality by category, percent", found["boundary"]["classes"])
        print_pq(found["boundary"]["summary"], of="by boundary IoU, ")
    print_pq(found["summary"], of="in ")


def _by_kind(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each system with a column for each kind."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        whose, system, kind, _, pq_lost = record
        names = (record[whose], record[system])
        rows.setdefault(names, {whose: names[0], system: names[1]})[record[kind]] = record[pq_lost]
    return [*rows.values()]
