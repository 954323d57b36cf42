"""Panoptic results of other tools: COCO's format, and the (map, segments_info) pairs of Hugging Face and detectron2.

`panoptic.json` is COCO's {"annotations": […]} or the list alone; a row has image_id, file_name and segments_info. A
segment has an id and a category_id or, as Hugging Face calls it, a label_id; score and isthing may stand beside them.
The maps lie in the folder `panoptic`: PNGs, read as the truth's (panoptic/png.py), or numpy files of the tensor, whole
numbers of whatever type. Void is a negative id, and 0 unless a segment has it.

Things become instances, which do not overlap, with score 1 where none is given. All segments together become a semantic
map without doubt; so two segments of one stuff category in an image become one, as the format wants it. Hugging Face
lists stuff that it fuses as several rows of one id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.errors import PredictionsError, first_line
from antvisionps.core.file_names import path_below
from antvisionps.core.json_files import read_json
from antvisionps.interchange.coco_results import checked_score
from antvisionps.interchange.image_names import ImageFinder
from antvisionps.interchange.label_table import LabelTable, own_labels
from antvisionps.interchange.numpy_files import UNREADABLE, read_npy, whole_numbers
from antvisionps.interchange.semantic_files import VOID_CATEGORY, load_png, one_hot_semantics, refuse_other_size
from antvisionps.panoptic.categories import json_flag
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import whole_number
from antvisionps.panoptic.png import decode_segment_ids
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segment_runs import SegmentRuns, index_runs
from antvisionps.panoptic.segments import PanopticImage, map_ids, run_lengths
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

Segments = dict[int, tuple[int, float]]
"""segment id → (category_id, score)."""


@dataclass(frozen=True)
class PanopticResults:
    """The rows of a file, by image_id, and the folder of their maps."""

    annotations: Path
    maps: Path
    labels: LabelTable
    row_of_image: Mapping[int, Mapping[str, Any]]

    @classmethod
    def open(
        cls, annotations: Path, maps: Path, *, dataset: PanopticDataset, labels: LabelTable | None = None
    ) -> PanopticResults:
        """Without a table, labels are category ids. Raises PredictionsError on an image that is unknown, missing or
        there twice."""
        row_of_image = _rows_by_image(annotations, ImageFinder(dataset))
        for image in dataset.images:
            if image.image_id not in row_of_image:
                raise PredictionsError(f"{annotations}: image {image.source_id} is missing; every image is needed")
        return cls(annotations, maps, labels or own_labels(dataset.categories), row_of_image)

    def load_runs(self, image: PanopticImage) -> tuple[SegmentRuns, Segments]:
        """The map as runs of the segments; all else is void. Raises what `load` does, and PredictionsError where
        segments of map and JSON disagree."""
        segment_ids, segments, where = self.load(image)
        return runs_of_segments(segment_ids, segments, where), segments

    def load(self, image: PanopticImage) -> tuple[np.ndarray, Segments, str]:
        """(H, W) segment ids, the segments that the JSON lists, and what errors call the image. Raises PredictionsError
        on a map of another size, an unknown category and a score that is no number from 0 to 1."""
        row = self.row_of_image[image.image_id]
        where = f"{self.annotations}: image {image.source_id}"
        segment_ids, meaning = _load_map(self.maps, row.get("file_name"), image, where)
        where += f" (its PNG is {meaning})" if meaning else ""
        return segment_ids, parse_segments(row.get("segments_info"), self.labels, where), where


def read_panoptic_results(
    annotations: Path, *, dataset: PanopticDataset, labels: LabelTable
) -> Iterator[tuple[ImageInstances, ImageSemantics]]:
    """Every image of the split, in ascending image_id; the maps are in the folder that is called as the JSON is,
    without suffix. Raises what PanopticResults does."""
    results = PanopticResults.open(annotations, annotations.with_suffix(""), dataset=dataset, labels=labels)
    for image in dataset.images:
        segment_ids, segments, where = results.load(image)
        yield convert_segments(segment_ids, segments, image, labels, where)


def _rows_by_image(path: Path, images: ImageFinder) -> dict[int, Mapping[str, Any]]:
    """image_id → its row."""
    document = read_json(path, what="panoptic results", remedy="write them again", error=PredictionsError)
    rows = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PredictionsError(f"{path}: expected panoptic results, a list of objects or one under 'annotations'")
    row_of_image: dict[int, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        image = images.find(row.get("image_id"), where=f"{path}: result {position}")
        if image.image_id in row_of_image:
            raise PredictionsError(f"{path}: image {image.source_id} appears twice; keep one")
        row_of_image[image.image_id] = row
    return row_of_image


def _load_map(folder: Path, file_name: Any, image: PanopticImage, where: str) -> tuple[np.ndarray, str]:
    """(H, W) segment ids, and what the pixels of the PNG mean if it is not RGB."""
    if not isinstance(file_name, str) or Path(file_name).suffix.lower() not in (".png", ".npy"):
        raise PredictionsError(f"{where}: expected the file_name of a .png or .npy, got {file_name!r}")
    path = path_below(folder, file_name, error=PredictionsError)
    if path.suffix.lower() == ".npy":
        segment_ids = _load_npy(path)
        refuse_other_size(path, image, segment_ids.shape)
        return segment_ids, ""
    segment_ids, header = load_png(path, image, decode_segment_ids)
    return segment_ids, header.meaning


def _load_npy(path: Path) -> np.ndarray:
    try:
        return whole_numbers(read_npy(path))
    except UNREADABLE as error:
        raise PredictionsError(
            f"{path}: cannot be read as a map of segment ids ({first_line(error)}); write it again with np.save"
        ) from error


def plain_rows(rows: Any) -> Any:
    """Of segments_info in memory, whose numbers and flags may be numpy's or torch's: the same as Python's."""
    if not isinstance(rows, list | tuple):
        return rows
    return [{key: _plain(value) for key, value in row.items()} if isinstance(row, Mapping) else row for row in rows]


def _plain(value: Any) -> Any:
    return value.item() if getattr(value, "shape", None) == () else value


def parse_segments(rows: Any, labels: LabelTable, where: str) -> Segments:
    """The rows of segments_info. Raises PredictionsError on what is no such row."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PredictionsError(f"{where}: expected segments_info, a list of objects, got {str(rows)[:80]}")
    segments: Segments = {}
    for row in rows:
        segment_id = _segment_id(row.get("id"), where)
        described = _described(row, labels, f"{where}: segment {segment_id}")
        category_id, _ = segments.setdefault(segment_id, described)
        if segments[segment_id] is not described and (
            described[0] != category_id or category_id in labels.categories.thing_ids
        ):
            raise PredictionsError(
                f"{where}: segment {segment_id} appears twice, and is not one of stuff; give each an id of its own (in "
                "Transformers, label_ids_to_fuse=set())"
            )
    return segments


def _segment_id(value: Any, where: str) -> int:
    try:
        segment_id = whole_number(value)
        if segment_id >= 0:
            return segment_id
    except ValueError:
        pass
    raise PredictionsError(f"{where}: expected a segment id from 0 on, got {value!r}")


def _described(row: Mapping[str, Any], labels: LabelTable, where: str) -> tuple[int, float]:
    label = row["category_id"] if "category_id" in row else row.get("label_id")
    score = row.get("score")
    category_id = labels.category_id(label, is_thing=_is_thing(row.get("isthing"), where), where=where)
    return category_id, 1.0 if score is None else checked_score(score, where)


def _is_thing(flag: Any, where: str) -> bool | None:
    try:
        return None if flag is None else json_flag(flag)
    except ValueError as error:
        raise PredictionsError(f"{where}: isthing: {error}") from error


def runs_of_segments(segment_ids: np.ndarray, segments: Segments, where: str) -> SegmentRuns:
    """Of one map. Raises PredictionsError where it has other segments than these."""
    lengths, ids = run_lengths(segment_ids)
    drawn = {segment_id for segment_id in np.unique(ids).tolist() if segment_id > 0 or segment_id in segments}
    if drawn != set(segments):
        stray = min(drawn ^ set(segments))
        problem = "is in the map, but not in segments_info" if stray in drawn else "has no pixel in the map"
        remedy = "add it" if stray in drawn else "leave it out if others hide it"
        raise PredictionsError(f"{where}: segment {stray} {problem}; {remedy}, or write map and JSON together again")
    return index_runs(lengths, ids, segments)


def convert_segments(
    segment_ids: np.ndarray, segments: Segments, image: PanopticImage, labels: LabelTable, where: str
) -> tuple[ImageInstances, ImageSemantics]:
    """Things as instances and all segments as semantics, of (H, W) segment ids. Raises PredictionsError where ids and
    segments disagree."""
    runs_of_segments(segment_ids, segments, where)
    category_of = {segment_id: category_id for segment_id, (category_id, _) in segments.items()}
    category_map = map_ids(segment_ids, category_of, np.int32, otherwise=VOID_CATEGORY)
    instances = []
    for segment_id, (category_id, score) in sorted(segments.items()):
        if category_id in labels.categories.thing_ids:
            rle = encode_masks((segment_ids == segment_id)[None])[0]
            box = coco_mask.toBbox({"size": [image.height, image.width], "counts": rle}).tolist()
            instances.append((category_id, score, box, rle))
    return ImageInstances.of(image, instances), one_hot_semantics(category_map, image, labels.categories)
