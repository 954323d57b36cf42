"""Mask AP per category by the COCO protocol: IoU .50:.05:.95, 101 recall points, at most 100 detections of a category
in an image, all areas, crowds ignored. Equal to pycocotools' COCOeval, from which the order of every tie is taken.
"""

from collections.abc import Mapping, Sequence
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
    """The D detections of one image that count, by category, of each best score first: category_ids and scores (D,),
    matched and ignored (10, D) bool; ious (D,) with what each is matched to at IoU 0.5, 0 where that is nothing or a
    crowd. n_gt: category_id → true instances without crowds, of the annotated categories."""

    category_ids: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    ious: np.ndarray
    n_gt: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class CategoryMatches:
    """The D detections of one category in N images, image by image: n_gt (N,); images (D,), the place of the image that
    each is from, and what ImageMatches has of them."""

    n_gt: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    ious: np.ndarray


def matches_of_categories(images: Sequence[ImageMatches], *, category_ids: Sequence[int]) -> dict[int, CategoryMatches]:
    """category_id → its matches in the images, which are in ascending image_id: this orders equal scores."""
    found = np.concatenate([image.category_ids for image in images])
    order = np.argsort(found, kind="stable")
    columns = [np.repeat(np.arange(len(images)), [len(image.scores) for image in images])]
    for name in ("scores", "matched", "ignored", "ious"):
        columns += [np.concatenate([getattr(image, name) for image in images], axis=-1)]
    bounds = (np.searchsorted(found[order], category_ids, side).tolist() for side in ("left", "right"))
    return {
        category_id: CategoryMatches(
            np.array([image.n_gt.get(category_id, 0) for image in images]),
            *(column[..., order[first:stop]] for column in columns),
        )
        for category_id, first, stop in zip(category_ids, *bounds, strict=True)
    }


def match_image(predicted: ImageInstances, gt: GtInstances) -> ImageMatches:
    """The matches of all categories."""
    order = np.lexsort((-predicted.scores, predicted.category_ids))
    found = predicted.category_ids[order]
    order = order[np.arange(len(order)) - np.searchsorted(found, found) < MAX_DETECTIONS]
    found = predicted.category_ids[order]
    matched = np.zeros((len(IOU_THRESHOLDS), len(order)), dtype=bool)
    ignored, ious, n_gt = np.zeros_like(matched), np.zeros(len(order)), {}
    for category_id in np.unique(gt.category_ids).tolist():
        annotated = np.flatnonzero(gt.category_ids == category_id)
        is_crowd = gt.is_crowd[annotated]
        own = slice(*np.searchsorted(found, [category_id, category_id + 1]))
        all_ious = mask_ious(predicted, order[own], gt, annotated)
        matched[:, own], ignored[:, own], ious[own] = _match_detections(all_ious, is_crowd)
        n_gt[category_id] = int(np.count_nonzero(~is_crowd))
    return ImageMatches(found, predicted.scores[order], matched, ignored, ious, n_gt)


def mask_ious(predicted: ImageInstances, found: np.ndarray, gt: GtInstances, annotated: np.ndarray) -> np.ndarray:
    """(D, G) float64 of the instances at these places, whose masks are parsed before; with a crowd the intersection
    over the detection's area."""
    if not len(found) or not len(annotated):
        return np.zeros((len(found), len(annotated)))
    size = [predicted.height, predicted.width]
    ious: np.ndarray = coco_mask.iou(
        [{"size": size, "counts": predicted.rles[index]} for index in found],
        [{"size": size, "counts": gt.rles[index]} for index in annotated],
        gt.is_crowd[annotated].astype(np.uint8).tolist(),
    )
    return ious


def _match_detections(ious: np.ndarray, is_crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`matched`, `ignored` and `ious` of ImageMatches by greedy matching, best score first, at all thresholds at once.

    ious (D, G) of detections of descending score · is_crowd (G,) bool. A detection takes the free instance of the
    largest IoU (the last one on a tie), and only if there is none a crowd; a crowd takes any number of detections,
    which are then ignored: neither right nor wrong.
    """
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    matched, match_ious = np.zeros((len(thresholds), len(ious)), dtype=bool), np.zeros(len(ious))
    single_ious = ious[:, ~is_crowd]
    is_free = np.ones((len(thresholds), single_ious.shape[1]), dtype=bool)
    for detection in np.flatnonzero(single_ious.max(axis=1, initial=0.0) >= thresholds[0]).tolist():
        iou_row = single_ious[detection]
        eligible = np.where(is_free & (iou_row >= thresholds[:, None]), iou_row, -1.0)
        last_best = eligible.shape[1] - 1 - eligible[:, ::-1].argmax(axis=1)
        takes = eligible[np.arange(len(thresholds)), last_best] >= 0
        matched[takes, detection] = True
        match_ious[detection] = iou_row[last_best[0]] if takes[0] else 0.0
        is_free[takes, last_best[takes]] = False
    ignored = ~matched & (ious[:, is_crowd].max(axis=1, initial=0.0) >= thresholds[:, None])
    return matched | ignored, ignored, match_ious


def average_precision(matches: CategoryMatches) -> CategoryAP:
    n_gt = int(matches.n_gt.sum())
    if n_gt == 0:
        return CategoryAP(float("nan"), float("nan"), 0)
    per_threshold = precision_at_recall(matches).mean(axis=1)
    return CategoryAP(float(per_threshold.mean()), float(per_threshold[0]), n_gt)


def precision_at_recall(matches: CategoryMatches) -> np.ndarray:
    """(10, 101) the interpolated precision at each IoU threshold and recall point; NaN without ground truth."""
    n_gt = int(matches.n_gt.sum())
    if n_gt == 0:
        return np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS)), np.nan)
    right, wrong, _ = _best_first(matches)
    return _interpolate(right, wrong, n_gt)


def resampled_average_precision(matches: CategoryMatches, draws: np.ndarray) -> np.ndarray:
    """(samples,) AP, when image i counts draws[:, i] times; NaN in a sample without ground truth.

    Equal scores within an image that counts several times stand together, not image after image.
    """
    found = np.full(len(draws), np.nan)
    right, wrong, image_of = _best_first(matches)
    n_gt = draws @ matches.n_gt
    for sample in np.flatnonzero(n_gt).tolist():
        times = draws[sample, image_of]
        found[sample] = _interpolate(right * times, wrong * times, n_gt[sample]).mean(axis=1).mean()
    return found


def _best_first(matches: CategoryMatches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether detections are right, (10, D), whether they are wrong, (10, D), and the image of each, (D,)."""
    order = np.argsort(-matches.scores, kind="stable")
    matched, counted = matches.matched[:, order], ~matches.ignored[:, order]
    return matched & counted, ~matched & counted, matches.images[order]


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
