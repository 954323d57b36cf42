"""Mask AP per category by the COCO protocol: IoU .50:.05:.95, 101 recall points, at most 100 detections of a category
in an image, all areas, crowds ignored. Equal to pycocotools' COCOeval, from which the order of every tie is taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.panoptic.gt_instances import GtInstances
from antvisionps.predictions.instances import ImageInstances

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class CategoryAP:
    """`ap` is the mean over the IoU thresholds, `ap50` the one at 0.5; NaN without ground truth (n_gt = 0)."""

    ap: float
    ap50: float
    n_gt: int


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """The D detections of one category in one image: scores (D,), matched and ignored (10, D) bool; ious (D,) with what
    each is matched to at IoU 0.5, 0 where that is nothing or a crowd."""

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    n_gt: int
    ious: np.ndarray


def class_average_precision(
    images: Iterable[Mapping[int, ImageMatches]], *, category_ids: Sequence[int]
) -> dict[int, CategoryAP]:
    """category_id → AP, of what `match_image` says of each image in ascending image_id (which orders equal scores)."""
    matches: dict[int, list[ImageMatches]] = {category_id: [] for category_id in category_ids}
    for of_image in images:
        for category_id, of_category in of_image.items():
            matches[category_id].append(of_category)
    return {category_id: average_precision(of_category) for category_id, of_category in matches.items()}


def match_image(predicted: ImageInstances, gt: GtInstances) -> dict[int, ImageMatches]:
    """category_id → matches, of the categories that are predicted or annotated. Raises CacheError on a bad mask."""
    _ = predicted.runs  # checks the masks; pycocotools does not, and never comes back from some
    order = np.lexsort((-predicted.scores, predicted.category_ids))
    present = np.union1d(predicted.category_ids, gt.category_ids)
    bounds = (np.searchsorted(predicted.category_ids[order], present, side) for side in ("left", "right"))
    return {
        category_id: _match_category(predicted, gt, category_id, order[first:stop][:MAX_DETECTIONS])
        for category_id, first, stop in zip(present.tolist(), *(bound.tolist() for bound in bounds), strict=True)
    }


def _match_category(predicted: ImageInstances, gt: GtInstances, category_id: int, found: np.ndarray) -> ImageMatches:
    """`found` are the places of the category's detections, best score first."""
    if category_id not in gt.category_ids:  # as most that are predicted
        nothing = np.zeros((len(IOU_THRESHOLDS), len(found)), dtype=bool)
        return ImageMatches(predicted.scores[found], nothing, nothing, 0, np.zeros(len(found)))
    annotated = np.flatnonzero(gt.category_ids == category_id)
    is_crowd = gt.is_crowd[annotated]
    size = [predicted.height, predicted.width]
    ious = np.zeros((len(found), len(annotated)))
    if ious.size:
        ious = coco_mask.iou(
            [{"size": size, "counts": predicted.rles[index]} for index in found],
            [{"size": size, "counts": gt.rles[index]} for index in annotated],
            is_crowd.astype(np.uint8).tolist(),
        )
    return match_detections(predicted.scores[found], ious, is_crowd)


def match_detections(scores: np.ndarray, ious: np.ndarray, is_crowd: np.ndarray) -> ImageMatches:
    """Greedy matching, best score first, at all IoU thresholds at once.

    scores (D,) descending · ious (D, G), to a crowd intersection over the detection's area · is_crowd (G,) bool. A
    detection takes the free instance of the largest IoU (the last one on a tie), and only if there is none a crowd; a
    crowd takes any number of detections, which are then ignored: neither right nor wrong.
    """
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    matched = np.zeros((len(thresholds), len(scores)), dtype=bool)
    ignored = np.zeros_like(matched)
    crowd_iou = ious[:, is_crowd].max(axis=1, initial=0.0)
    single_ious = ious[:, ~is_crowd]
    match_ious = np.zeros(len(scores))
    is_free = np.ones((len(thresholds), single_ious.shape[1]), dtype=bool)
    for detection, iou_row in enumerate(single_ious):
        if iou_row.max(initial=0.0) >= thresholds[0]:
            eligible = np.where(is_free & (iou_row >= thresholds[:, None]), iou_row, -1.0)
            last_best = eligible.shape[1] - 1 - eligible[:, ::-1].argmax(axis=1)
            takes = eligible[np.arange(len(thresholds)), last_best] >= 0
            matched[takes, detection] = True
            match_ious[detection] = iou_row[last_best[0]] if takes[0] else 0.0
            is_free[takes, last_best[takes]] = False
        in_crowd = ~matched[:, detection] & (crowd_iou[detection] >= thresholds)
        matched[in_crowd, detection] = True
        ignored[in_crowd, detection] = True
    return ImageMatches(scores, matched, ignored, int(np.count_nonzero(~is_crowd)), match_ious)


def average_precision(images: Sequence[ImageMatches]) -> CategoryAP:
    """AP of one category from its matches in all images, in ascending image_id."""
    n_gt = sum(image.n_gt for image in images)
    if n_gt == 0:
        return CategoryAP(float("nan"), float("nan"), 0)
    per_threshold = precision_at_recall(images).mean(axis=1)
    return CategoryAP(float(per_threshold.mean()), float(per_threshold[0]), n_gt)


def precision_at_recall(images: Sequence[ImageMatches]) -> np.ndarray:
    """(10, 101) the interpolated precision of one category at each IoU threshold and recall point, from its matches in
    all images, in ascending image_id; NaN without ground truth."""
    n_gt = sum(image.n_gt for image in images)
    if n_gt == 0:
        return np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS)), np.nan)
    order = _best_first(images)
    matched = np.concatenate([image.matched for image in images], axis=1)[:, order]
    counted = ~np.concatenate([image.ignored for image in images], axis=1)[:, order]
    return _interpolate(matched & counted, ~matched & counted, n_gt)


def resampled_average_precision(images: Sequence[ImageMatches], draws: np.ndarray) -> np.ndarray:
    """(samples,) AP of one category, when image i counts draws[:, i] times; NaN in a sample without ground truth.

    Equal scores within an image that counts several times stand together, not image after image.
    """
    found = np.full(len(draws), np.nan)
    if not images:
        return found
    order = _best_first(images)
    image_of = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])[order]
    matched = np.concatenate([image.matched for image in images], axis=1)[:, order]
    counted = ~np.concatenate([image.ignored for image in images], axis=1)[:, order]
    n_gt = draws @ np.array([image.n_gt for image in images])
    for sample in np.flatnonzero(n_gt).tolist():
        times = draws[sample, image_of]
        found[sample] = (
            _interpolate((matched & counted) * times, (~matched & counted) * times, n_gt[sample]).mean(axis=1).mean()
        )
    return found


def _best_first(images: Sequence[ImageMatches]) -> np.ndarray:
    return np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")


def _interpolate(right: np.ndarray, wrong: np.ndarray, n_gt: int) -> np.ndarray:
    """(10, 101) precisions, of how many right and wrong detections each of (10, D) stands for."""
    true_positives = np.cumsum(right, axis=1, dtype=np.float64)
    false_positives = np.cumsum(wrong, axis=1, dtype=np.float64)
    recall = true_positives / n_gt
    precision = true_positives / (true_positives + false_positives + np.spacing(1))
    # Interpolated: the best precision at this recall or a higher one; 0 beyond the recall that is reached.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))
    return np.array(
        [
            row[np.searchsorted(reached, RECALL_POINTS, side="left")]
            for row, reached in zip(envelope, recall, strict=True)
        ]
    )
