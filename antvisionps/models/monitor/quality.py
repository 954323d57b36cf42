"""PQ (Kirillov et al. 2019, section 4) of a network's maps, as panopticapi counts, and its mask AP, by pycocotools."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from antvisionps.models.monitor.panoptic_map import PanopticMap
from antvisionps.panoptic.categories import VOID_SEGMENT_ID
from antvisionps.panoptic.gt_instances import GtInstances
from antvisionps.panoptic.segments import Segment

MATCH_IOU = 0.5
MAX_IGNORED_FRAC = 0.5
MAX_DETECTIONS = 100
"""Of a category in an image, as COCO's AP has it."""

Counts = Mapping[int, np.ndarray]
"""category_id → (4,): the sum of the matches' IoU, TP, FP and FN."""


def count_matches(gt_ids: np.ndarray, gt: Sequence[Segment], predicted: PanopticMap) -> Counts:
    """Of one image: its true map (H, W) of segment ids, that map's segments, and the predicted map."""
    counts: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    shared_px = _shared_pixels(gt_ids, predicted.segment_ids)
    area_px = np.bincount(predicted.segment_ids.ravel())
    segment_of = {segment.segment_id: segment for segment in gt}
    unmatched = dict(predicted.category_of)
    missed = {segment.segment_id: segment.category_id for segment in gt if not segment.is_crowd}
    for (gt_id, predicted_id), shared in shared_px.items():
        if missed.get(gt_id) is None or missed[gt_id] != unmatched.get(predicted_id):
            continue
        void_px = shared_px.get((VOID_SEGMENT_ID, predicted_id), 0)
        iou = shared / (segment_of[gt_id].area_px + area_px[predicted_id] - shared - void_px)
        if iou > MATCH_IOU:
            counts[missed.pop(gt_id)] += (iou, 1, 0, 0)
            unmatched.pop(predicted_id)
    for category_id in missed.values():
        counts[category_id] += (0, 0, 0, 1)
    crowd_of = {segment.category_id: segment.segment_id for segment in gt if segment.is_crowd}
    for predicted_id, category_id in unmatched.items():
        ignored = {VOID_SEGMENT_ID, crowd_of.get(category_id, VOID_SEGMENT_ID)}
        ignored_px = sum(shared_px.get((gt_id, predicted_id), 0) for gt_id in ignored)
        if ignored_px / area_px[predicted_id] <= MAX_IGNORED_FRAC:
            counts[category_id] += (0, 0, 1, 0)
    return dict(counts)


def _shared_pixels(gt_ids: np.ndarray, predicted_ids: np.ndarray) -> dict[tuple[int, int], int]:
    """(true id, predicted id) → how many pixels have both."""
    pairs, shared_px = np.unique(gt_ids.astype(np.int64) << 32 | predicted_ids, return_counts=True)
    return {(pair >> 32, pair & 0xFFFFFFFF): px for pair, px in zip(pairs.tolist(), shared_px.tolist(), strict=True)}


def panoptic_quality(images: Iterable[Counts], category_ids: Collection[int]) -> float:
    """PQ, a fraction of 1, over those of the categories that are true or predicted in some image; 0 without any."""
    totals: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    for counts in images:
        for category_id, count in counts.items():
            totals[category_id] += count
    of_category = [
        iou_sum / (tp + fp / 2 + fn / 2)
        for iou_sum, tp, fp, fn in (totals[category_id] for category_id in category_ids if category_id in totals)
        if tp + fp + fn
    ]
    return float(np.mean(of_category)) if of_category else 0.0


@dataclass(frozen=True, eq=False)
class ImageMasks:
    """True and predicted instances of an image of (height, width); `found` is category_id, score and RLE of each."""

    hw: tuple[int, int]
    gt: GtInstances
    found: Sequence[tuple[int, float, bytes]]


def mask_ap(images: Sequence[ImageMasks], category_ids: Sequence[int]) -> float | None:
    """COCO's AP, a fraction of 1; None where no image has a true instance."""
    true_rows = [
        _row(number, image.hw, category_id, rle, iscrowd=int(is_crowd))
        for number, image in enumerate(images)
        for category_id, is_crowd, rle in zip(image.gt.category_ids, image.gt.is_crowd, image.gt.rles, strict=True)
    ]
    found_rows = [
        _row(number, image.hw, category_id, rle, iscrowd=0, score=score)
        for number, image in enumerate(images)
        for category_id, score, rle in image.found
    ]
    if all(row["iscrowd"] for row in true_rows):
        return None
    sizes = [image.hw for image in images]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*(_index(rows, sizes, category_ids) for rows in (true_rows, found_rows)), "segm")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def _row(image: int, hw: tuple[int, int], category_id: int, rle: bytes, **more: Any) -> dict[str, Any]:
    """`area` only says into which range of areas it falls, and there is one."""
    mask = {"size": list(hw), "counts": rle}
    return {"image_id": image, "category_id": int(category_id), "segmentation": mask, "area": 1.0} | more


def _index(rows: list[dict[str, Any]], sizes: Sequence[tuple[int, int]], category_ids: Sequence[int]) -> COCO:
    """Rows numbered from 1 on: to COCOeval a match with 0 is none."""
    indexed = COCO()
    indexed.dataset = {
        "images": [{"id": number, "height": height, "width": width} for number, (height, width) in enumerate(sizes)],
        "categories": [{"id": category_id} for category_id in category_ids],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, start=1)],
    }
    indexed.createIndex()
    return indexed
