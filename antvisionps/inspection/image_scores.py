"""PQ of images and categories, out of the counts that stage score wrote of every image."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.panoptic.ids import ImageId
from antvisionps.report.score_tables import IMAGE_COUNTS_FILE, REMEDY, per_image_schema

_ROUNDING = 1e-6
COLUMNS = ("category_id", "tp", "fp", "fn", "iou_sum")


def counts_of(fused_folder: Path) -> Path:
    """Where stage score counts what data/fused/<system> holds."""
    return fused_folder.resolve().parents[1] / "scores" / IMAGE_COUNTS_FILE


def read_image_counts(path: Path, *, system: str) -> dict[ImageId, MatchCounts] | None:
    """image_id, the data set's own → its counts; None where there is no such file, or nothing of the system in it."""
    if not path.is_file():
        return None
    table = _read(path)
    if any(column.null_count for column in table.columns):
        raise CacheError(f"{path}: a row lacks a value; {REMEDY}")
    is_of_system = np.array(table["system"].to_pylist(), dtype=object) == system
    image_ids = np.array(table["image_id"].to_pylist(), dtype=object)[is_of_system].tolist()
    columns = {name: table[name].to_numpy()[is_of_system] for name in COLUMNS}
    starts = [row for row, image_id in enumerate(image_ids) if row == 0 or image_id != image_ids[row - 1]]
    counts: dict[ImageId, MatchCounts] = {}
    for start, stop in zip(starts, [*starts[1:], len(image_ids)], strict=False):
        category_ids, *numbers = (columns[name][start:stop] for name in COLUMNS)
        counts[image_ids[start]] = MatchCounts(category_ids, *numbers)
    if len(counts) < len(starts) or not all(map(_is_possible, counts.values())):
        raise CacheError(f"{path}: counts that cannot be, or an image that stands twice; {REMEDY}")
    return counts or None


def _is_possible(counts: MatchCounts) -> bool:
    numbers = (counts.tp, counts.fp, counts.fn, counts.iou_sum)
    is_positive = all((column >= 0).all() for column in numbers)
    return bool(
        is_positive and (counts.iou_sum <= counts.tp + _ROUNDING).all() and (np.diff(counts.category_ids) > 0).all()
    )


def _read(path: Path) -> pa.Table:
    """The table; its image ids are numbers or text."""
    try:
        with ParquetReader(path, per_image_schema(text_ids=True), remedy=REMEDY, error=CacheError) as file:
            return file.read()
    except CacheError:
        with ParquetReader(path, per_image_schema(text_ids=False), remedy=REMEDY, error=CacheError) as file:
            return file.read()


def class_pq(counts: Mapping[ImageId, MatchCounts] | None, image_ids: Collection[ImageId]) -> dict[int, float]:
    """category_id → PQ in percent over these images, of those that have one."""
    if counts is None:
        return {}
    total = total_counts([counts[image_id] for image_id in image_ids if image_id in counts])
    return {category_id: 100 * quality.pq for category_id, quality in class_quality(total).items()}


def image_pq(counts: Mapping[ImageId, MatchCounts] | None, image_id: ImageId) -> float | None:
    """PQ of one image in percent, the mean over its categories; None without counts or without a category."""
    if counts is None or image_id not in counts:
        return None
    pq_of = group_quality(class_quality(counts[image_id]), counts[image_id].category_ids.tolist()).pq
    return None if math.isnan(pq_of) else 100 * pq_of
