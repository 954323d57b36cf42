"""`antvisionps score …`: panoptic quality of predictions in the COCO panoptic format, of any tool's."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antvisionps.evaluation.panoptic_quality import MatchCounts
    from antvisionps.panoptic.dataset import PanopticDataset

SAMPLES, SEED = 1000, 0
"""Resampled sets of images, of which the intervals are."""

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
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each category, too")
    parser.add_argument(
        "--per-image", type=Path, metavar="FILE", help="write the counts of each image and category as CSV, too"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> None:
    from antvisionps.evaluation.panoptic_quality import total_counts
    from antvisionps.evaluation.score_rows import CLASS_COLUMNS, INTERVAL_COLUMNS, class_rows, interval_rows
    from antvisionps.evaluation.summary import summarize
    from antvisionps.pipeline.score_results import match_results

    predictions = {name: tuple(files) for name, files in zip(_names(args.pred), args.pred, strict=True)}
    workers = args.workers or len(os.sched_getaffinity(0))
    truth, matches = match_results(tuple(args.gt), predictions, workers=workers, bar="score")
    counts = {name: of_name.counts() for name, of_name in matches.items()}
    totals = {name: total_counts(of_images) for name, of_images in counts.items()}
    found = {
        "summary": {name: summarize(total, truth.categories) for name, total in totals.items()},
        "classes": _records(CLASS_COLUMNS, class_rows(totals, truth.categories)),
    }
    if args.intervals:
        found["intervals"] = _records(INTERVAL_COLUMNS, interval_rows(counts, truth.categories, _draws(truth)))
    _write(args, found, counts, truth)
    _print(args, found)


def _names(predictions: Sequence[Sequence[Path]]) -> list[str]:
    """How the predictions are called: by the first of these that tells them apart."""
    for name_of in (lambda files: files[0].stem, lambda files: files[1].name, lambda files: files[0].parent.name):
        names = [name_of(files) for files in predictions]
        if len({*names}) == len(names) and all(names):
            return names
    return [f"{position} {annotations}" for position, (annotations, _) in enumerate(predictions, start=1)]


def _draws(truth: PanopticDataset) -> Any:
    from antvisionps.evaluation.bootstrap import draw_images

    return draw_images(len(truth.images), samples=SAMPLES, seed=SEED)


def _records(columns: Sequence[str], rows: Any) -> list[dict[str, Any]]:
    return [dict(zip(columns, [None if cell == "" else cell for cell in row], strict=True)) for row in rows]


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
    percent = dict.fromkeys(("PQ", "SQ", "RQ", "low", "high"), ".1f")
    print_table("By category, percent", found["classes"], percent)
    if args.intervals:
        print_table(f"PQ with 95 % intervals over images ({SAMPLES} samples)", found["intervals"], percent)
    print_pq(found["summary"], of="in ")
