"""PQ of images and categories, out of the counts that stage score wrote of every image."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.errors import CacheError
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.panoptic.ids import ImageId

COLUMNS = ("image_id", "category_id", "tp", "fp", "fn", "iou_sum")


def metrics_of(fused_folder: Path) -> Path:
    """Where stage score counts what data/fused/<system> holds: metrics/per_image.parquet beside data/."""
    return fused_folder.resolve().parents[2] / "metrics" / "per_image.parquet"


def read_image_counts(path: Path, *, system: str) -> dict[ImageId, MatchCounts] | None:
    """image_id, the data set's own → its counts; None where there is no such file, or nothing of the system in it."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, filters=[("system", "=", system)], columns=list(COLUMNS))
        columns = {name: table[name].to_numpy() for name in COLUMNS[1:]}
        image_ids = table["image_id"].to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CacheError(f"{path}: not what stage score writes ({error}); run `dvc repro score`") from error
    starts = [row for row, image_id in enumerate(image_ids) if row == 0 or image_id != image_ids[row - 1]]
    counts: dict[ImageId, MatchCounts] = {}
    for start, stop in zip(starts, [*starts[1:], len(table)], strict=False):
        fields = {name: columns[name][start:stop] for name in COLUMNS[2:]}
        counts[image_ids[start]] = MatchCounts(columns["category_id"][start:stop], **fields)
    return counts or None


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
