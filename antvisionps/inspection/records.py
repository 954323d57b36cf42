"""What is said of one image, as rows for a table or JSON: column → value."""

from collections.abc import Iterable
from typing import Any

from antvisionps.core.errors import CacheError
from antvisionps.inspection.fused import FusedMap
from antvisionps.inspection.image_scores import class_pq, counts_of, read_image_counts
from antvisionps.inspection.predictions import Instance, Semantic
from antvisionps.report.score_tables import REMEDY

Record = dict[str, Any]


def instance_records(instances: Iterable[Instance]) -> list[Record]:
    return [
        {
            "rank": one.position,
            "category": one.category.name,
            "score": one.score,
            **dict(zip(("x", "y", "width", "height"), one.box_xywh, strict=True)),
            "area": one.area_px,
        }
        for one in instances
    ]


def semantic_records(semantic: Semantic) -> list[Record]:
    """Of each category that the end predicts: the part of the pixels where it is the likeliest, and how sure of that
    the end is there. The most frequent comes first."""
    records = []
    for category, plane in zip(semantic.categories, semantic.probs, strict=True):
        won = semantic.class_map == semantic.all_categories.class_index(category.category_id)
        records.append(
            {
                "category": category.name,
                "kind": "thing" if category.is_thing else "stuff",
                "share": float(won.mean()),
                "mean probability": float(plane.mean()),
                "confidence": float(semantic.confidence[won].mean()) if won.any() else None,
            }
        )
    return sorted(records, key=lambda record: (-record["share"], -record["mean probability"]))


def fused_records(image: FusedMap) -> dict[str, list[Record]]:
    """`segments`, `rejected` candidates, and `quality`: what stage score counted, nothing where it has not run."""
    name_of = {category.category_id: category.name for category in image.maps.categories.categories}
    segments = [
        {
            "segment": one.segment_id,
            "category": name_of[one.category_id],
            "score": one.score,
            "area": one.area_px,
            "end": one.end,
        }
        for one in image.segments
    ]
    rejected = [
        {
            "category": name_of[one.category_id],
            "score": one.score,
            "area": one.area_px,
            "free": one.free_px,
            "end": one.end,
            "reason": one.reason.value,
        }
        for one in image.rejected
    ]
    return {"segments": segments, "rejected": rejected, "quality": _quality_records(image, name_of)}


def _quality_records(image: FusedMap, name_of: dict[int, str]) -> list[Record]:
    counts = read_image_counts(counts_of(image.maps.folder), system=image.maps.system) or {}
    if image.image_id not in counts:
        return []
    of_image, pq_of = counts[image.image_id], class_pq(counts, [image.image_id])
    if strangers := set(of_image.category_ids.tolist()) - set(name_of):
        path = counts_of(image.maps.folder)
        raise CacheError(f"{path}: image {image.image_id} has unknown category {min(strangers)}; {REMEDY}")
    columns = (of_image.category_ids, of_image.tp, of_image.fp, of_image.fn)
    return [
        {"category": name_of[category_id], "TP": tp, "FP": fp, "FN": fn, "PQ": pq_of.get(category_id)}
        for category_id, tp, fp, fn in zip(*(column.tolist() for column in columns), strict=True)
    ]
