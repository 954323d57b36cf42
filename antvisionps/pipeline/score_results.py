"""PQ of what other tools predicted, from files or from memory: without a project, params.yaml and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.errors import DataError, PredictionsError
from antvisionps.evaluation.lrp import SegmentConfidence
from antvisionps.evaluation.panoptic_quality import (
    MatchCounts,
    Quality,
    class_quality,
    count_matches,
    group_quality,
    total_counts,
)
from antvisionps.evaluation.segment_scores import SegmentMaps, SegmentScores, score_segments
from antvisionps.evaluation.summary import groups
from antvisionps.interchange.label_table import LABELS, LabelTable, own_labels, read_label_table
from antvisionps.interchange.numpy_files import whole_numbers
from antvisionps.interchange.panoptic_results import (
    PanopticResults,
    Segments,
    parse_segments,
    plain_rows,
    runs_of_segments,
)
from antvisionps.interchange.tool_arrays import to_numpy
from antvisionps.interchange.tool_results import make_labels
from antvisionps.panoptic.categories import CategorySet, refuse_duplicates
from antvisionps.panoptic.coco_json import parse_segment, read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segment_runs import (
    IMAGES_PER_GROUP,
    SegmentRuns,
    images_of_group,
    join_runs,
    segment_areas_px,
)
from antvisionps.panoptic.segments import UNKNOWN_BBOX_XYWH, Segment
from antvisionps.parallel.images import map_images

Files = tuple[Path, Path]
"""A JSON in the COCO panoptic format and the folder of its PNGs."""

Places = tuple[str | PathLike[str], str | PathLike[str]]
Maps = Iterable[tuple[Any, Sequence[Mapping[str, Any]]]]
"""Of each image its (H, W) segment ids and its segments_info."""


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """PQ, SQ and RQ as fractions of 1, by panopticapi's rules, and the counts of each image, in the truth's order."""

    categories: CategorySet
    counts: tuple[MatchCounts, ...]

    @cached_property
    def classes(self) -> dict[int, Quality]:
        """category_id → its quality, of the categories with a true or a predicted segment that counts."""
        return class_quality(total_counts(self.counts))

    @property
    def all(self) -> Quality:
        return self._of_group("All")

    @property
    def things(self) -> Quality:
        return self._of_group("Things")

    @property
    def stuff(self) -> Quality:
        return self._of_group("Stuff")

    def _of_group(self, group: str) -> Quality:
        return group_quality(self.classes, groups(self.categories)[group])


def panoptic_quality(
    gt: Places | Maps,
    pred: Places | Maps,
    *,
    categories: Iterable[Mapping[str, Any]] | None = None,
    labels: Any = None,
    workers: int = 1,
) -> PanopticQuality:
    """PQ of predictions: gt and pred are both (JSON, folder of PNGs), or both, image by image in one order, pairs of
    (H, W) segment ids and segments_info.

    In memory `categories` are those of a COCO panoptic JSON; segments_info of the truth has id, category_id and, of a
    crowd, iscrowd, that of a prediction id and category_id (or label_id). `labels`: what a prediction's category_id or
    label_id means, as of Writer; without it that is a category id. Void is id 0 and, in a prediction, any negative id;
    a prediction may use 0 for a segment. Maps are numpy's or torch's, of any device and type.

    Raises DataError and PredictionsError on a truth and on predictions that break the format or do not fit together.
    """
    if (gt_files := _files(gt)) and (pred_files := _files(pred)):
        if labels is not None:
            raise PredictionsError(f"labels are of maps in memory; put them into {pred_files[0].parent / LABELS}")
        truth, scores = score_results(gt_files, {"pred": pred_files}, workers=workers)
        return PanopticQuality(truth.categories, tuple(scores["pred"].matches.counts()))
    if categories is None:
        raise DataError("expected gt and pred as two pairs of paths, or in memory with `categories`; give them")
    known = CategorySet.from_json(categories, where="categories")
    table = make_labels(labels, known) or own_labels(known)
    pairs: list[tuple[Any, Any]] = list(zip_longest(gt, pred))
    for position, pair in enumerate(pairs):
        if not all(isinstance(of_image, tuple | list) and len(of_image) == 2 for of_image in pair):
            raise PredictionsError(
                f"image at position {position}: expected (segment ids, segments_info) in both gt and pred, got "
                f"{' and '.join(type(of_image).__name__ for of_image in pair)}; give as many of one as of the other"
            )
    counts = [_counts_in_memory(*pair, table, f"image at position {n}") for n, pair in enumerate(pairs)]
    return PanopticQuality(known, tuple(counts))


def _files(given: Any) -> Files | None:
    is_places = isinstance(given, tuple) and len(given) == 2 and all(isinstance(one, str | PathLike) for one in given)
    return (Path(given[0]), Path(given[1])) if is_places else None


def score_results(
    gt: Files, predictions: Mapping[str, Files], *, workers: int, with_boundary: bool = False, bar: str | None = None
) -> tuple[PanopticDataset, dict[str, SegmentScores]]:
    """The truth, and by name what the segments of each prediction count in its images. Each true map is decoded once.
    `bar` is what a progress bar says."""
    annotations, maps = gt
    truth = read_panoptic(annotations, images_dir=maps, panoptic_dir=maps, is_foreign=True)
    results = [_open_results(files, truth) for files in predictions.values()]
    found = map_images(
        partial(_open_scoring, truth, results, with_boundary),
        range(-(-len(truth.images) // IMAGES_PER_GROUP)),
        workers=workers,
        description=bar,
        images_of_item=lambda group: len(images_of_group(truth.images, group)),
    )
    parts = zip(*found, strict=True)
    return truth, {name: SegmentScores.join(of_name) for name, of_name in zip(predictions, parts, strict=True)}


def _open_results(files: Files, truth: PanopticDataset) -> PanopticResults:
    """With the table of labels beside the JSON, if there is one."""
    labels = read_label_table(files[0].parent / LABELS, truth.categories)
    return PanopticResults.open(*files, dataset=truth, labels=labels)


def read_scores(files: Files, truth: PanopticDataset) -> SegmentConfidence:
    """The scores that segments_info gives, of those segments that have one; of several rows of one id the first."""
    rows = _open_results(files, truth).row_of_image
    scored = [
        (position, segment_id, score)
        for position, image in enumerate(truth.images)
        for segment_id, score in _first_scores(rows[image.image_id]["segments_info"]).items()
        if score is not None
    ]
    images, segment_ids, scores = np.array(scored, dtype=np.float64).reshape(-1, 3).T
    return SegmentConfidence.of(images.astype(np.int64), segment_ids.astype(np.int64), scores)


def _first_scores(rows: Sequence[Mapping[str, Any]]) -> dict[int, float | None]:
    """segment id → score, None without one."""
    return {row["id"]: row.get("score") for row in reversed(rows)}


def _open_scoring(
    truth: PanopticDataset, results: Sequence[PanopticResults], with_boundary: bool
) -> Callable[[int], list[SegmentScores]]:
    def score(group: int) -> list[SegmentScores]:
        images = images_of_group(truth.images, group)
        sizes_hw = [(image.height, image.width) for image in images]
        runs, measured = zip(*(truth.load_runs(image) for image in images), strict=True)
        listed = [image.segments for image in measured]
        gt = SegmentMaps.of(join_runs(runs), listed, sizes_hw=sizes_hw, with_bands=with_boundary)
        predicted = ([of_tool.load_runs(image) for image in images] for of_tool in results)
        return [score_segments(gt, _segment_maps(maps, sizes_hw, with_bands=with_boundary)) for maps in predicted]

    return score


def _segment_maps(
    maps: Sequence[tuple[SegmentRuns, Segments]], sizes_hw: Sequence[tuple[int, int]], *, with_bands: bool
) -> SegmentMaps:
    runs, segments = zip(*maps, strict=True)
    return SegmentMaps.of(join_runs(runs), [*map(_described, segments)], sizes_hw=sizes_hw, with_bands=with_bands)


def _described(segments: Segments) -> list[Segment]:
    """Without area: the runs of a prediction tell it."""
    return [
        Segment(segment_id, category_id, 0, UNKNOWN_BBOX_XYWH, is_crowd=False)
        for segment_id, (category_id, _) in segments.items()
    ]


def _counts_in_memory(gt: tuple[Any, Any], pred: tuple[Any, Any], labels: LabelTable, where: str) -> MatchCounts:
    (gt_map, gt_rows), (pred_map, pred_rows) = gt, pred
    gt_ids, pred_ids = (_segment_ids(ids, f"{where}: {which}") for ids, which in ((gt_map, "gt"), (pred_map, "pred")))
    if gt_ids.shape != pred_ids.shape:
        raise PredictionsError(f"{where}: expected a map of {gt_ids.shape} as gt is, got {pred_ids.shape}; resize it")
    rows = plain_rows(gt_rows)
    listed = [parse_segment(row, f"{where}: gt", categories=labels.categories, is_foreign=True) for row in rows]
    refuse_duplicates((segment.segment_id for segment in listed), "segment id", f"{where}: gt")
    by_id: Segments = {segment.segment_id: (segment.category_id, 1.0) for segment in listed}
    gt_runs = runs_of_segments(gt_ids, by_id, f"{where}: gt")
    areas_px = segment_areas_px(gt_runs, by_id)
    measured = [segment._replace(area_px=areas_px[segment.segment_id]) for segment in listed]
    segments = parse_segments(plain_rows(pred_rows), labels, f"{where}: pred")
    predicted = runs_of_segments(pred_ids, segments, f"{where}: pred")
    return count_matches(gt_runs=gt_runs, gt=measured, predicted_runs=predicted, predicted=_described(segments))


def _segment_ids(given: Any, where: str) -> np.ndarray:
    segment_ids = to_numpy(given)
    if segment_ids.ndim != 2 or not segment_ids.size:
        raise PredictionsError(
            f"{where}: expected (H, W) whole numbers, got {segment_ids.shape}; ids of RGB are R + 256 G + 256² B"
        )
    try:
        return whole_numbers(segment_ids)
    except ValueError as error:
        raise PredictionsError(f"{where}: {error}") from error
