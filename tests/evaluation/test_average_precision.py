import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from antvisionps.evaluation.average_precision import (
    GtInstances,
    average_precision,
    match_image,
    matches_of_categories,
    precision_at_recall,
    resampled_average_precision,
)
from antvisionps.panoptic.rle import encode_masks
from tests.drawing import draw, draw_box, found

CATEGORY_IDS = (1, 2, 3)


def annotate(rows, hw=(3, 4)):
    """True instances from (category_id, is_crowd, mask)."""
    masks = np.array([mask for _, _, mask in rows]).reshape(len(rows), *hw)
    return GtInstances(
        np.array([category_id for category_id, _, _ in rows], np.int32),
        encode_masks(masks) if rows else [],
        np.array([is_crowd for _, is_crowd, _ in rows], bool),
    )


def of_category(images, category_id):
    """What the images' detections of a category match; `found` is one that has none."""
    return matches_of_categories([match_image(found(), annotate([])), *images], category_ids=[category_id])[category_id]


def evaluate(images, category_ids=CATEGORY_IDS):
    """category_id → AP, of pairs of instances and truth."""
    of_categories = matches_of_categories([match_image(*pair) for pair in images], category_ids=category_ids)
    return {category_id: average_precision(matches) for category_id, matches in of_categories.items()}


LEFT, RIGHT = draw("##.. ##.. ##.."), draw("..## ..## ..##")


def evaluate_one(predicted, gt):
    return evaluate([(found(*predicted), annotate(gt))])


@pytest.mark.parametrize(
    ("predicted", "gt", "ap", "n_gt"),
    [
        ([(1, 0.9, LEFT)], [(1, False, LEFT)], 1, 1),
        ([(1, 0.9, RIGHT)], [(1, False, LEFT)], 0, 1),
        ([], [(1, False, LEFT)], 0, 1),
        ([(1, 0.9, LEFT)], [(2, False, LEFT)], math.nan, 0),
        ([(1, 0.9, LEFT)], [(1, True, LEFT)], math.nan, 0),
    ],
)
def test_ap_is_one_of_the_perfect_zero_of_the_wrong_and_unknown_without_ground_truth(predicted, gt, ap, n_gt):
    result = evaluate_one(predicted, gt)[1]
    assert (result.ap, result.ap50) == (pytest.approx(ap, nan_ok=True), pytest.approx(ap, nan_ok=True))
    assert result.n_gt == n_gt


def test_no_image_has_no_ap():
    assert np.isnan(average_precision(of_category([], 1)).ap)


def coco_evaluation(images, category_ids=CATEGORY_IDS):
    """pycocotools' evaluation of the same masks."""
    truth = {"images": [], "annotations": [], "categories": [{"id": category_id} for category_id in category_ids]}
    results = []
    for predicted, gt in images:
        size = [predicted.height, predicted.width]
        truth["images"].append({"id": predicted.image_id, "height": size[0], "width": size[1]})
        of_image = {"image_id": predicted.image_id}
        for category_id, rle, is_crowd in zip(gt.category_ids, gt.rles, gt.is_crowd, strict=True):
            mask = {"category_id": int(category_id), "segmentation": {"size": size, "counts": bytes(rle).decode()}}
            row = {"id": len(truth["annotations"]) + 1, "area": 1, "iscrowd": int(is_crowd)}
            truth["annotations"].append(of_image | mask | row)
        for category_id, score, rle in zip(predicted.category_ids, predicted.scores, predicted.rles, strict=True):
            mask = {"category_id": int(category_id), "segmentation": {"size": size, "counts": bytes(rle).decode()}}
            results.append(of_image | mask | {"score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_precision(images, category_ids=CATEGORY_IDS):
    """category_id → (10, 101) precision by pycocotools; -1 without ground truth."""
    evaluation = coco_evaluation(images, category_ids)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections
    return {category_id: precision[:, :, index] for index, category_id in enumerate(sorted(category_ids))}


def coco_ap(images, category_ids=CATEGORY_IDS):
    """category_id → (AP, AP50)."""
    return {
        category_id: (values.mean(), values[0].mean()) if (values > -1).all() else (np.nan, np.nan)
        for category_id, values in coco_precision(images, category_ids).items()
    }


def random_image(rng, image_id):
    """Boxy truths, shifted and ragged copies of them as detections, detections out of nowhere, many equal scores."""
    hw = tuple(rng.integers(20, 40, 2).tolist())
    gt_rows, rows = [], []
    for _ in range(rng.integers(0, 7)):
        y, x = rng.integers(0, hw[0] - 5), rng.integers(0, hw[1] - 5)
        height, width = rng.integers(2, 14, 2)
        mask = draw_box(hw, (x, y, width, height))
        category_id = int(rng.choice(CATEGORY_IDS[:2]))
        gt_rows.append((category_id, rng.random() < 0.2, mask))
        for _ in range(rng.integers(0, 4)):
            shifted = np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1)) & (
                rng.random(hw) < rng.choice([0.8, 0.95, 1.0])
            )
            rows.append((category_id, rng.integers(1, 10) / 10, shifted))
    for _ in range(rng.integers(0, 4)):
        height, width = rng.integers(1, 9, 2)
        rows.append((int(rng.choice(CATEGORY_IDS)), rng.random(), draw_box(hw, (0, 0, width, height))))
    return found(*rows, hw=hw, image_id=image_id).sorted_by_score(), annotate(gt_rows, hw)


def test_ap_is_that_of_cocoeval():
    rng = np.random.default_rng(0)
    for _ in range(12):
        images = [random_image(rng, image_id) for image_id in range(1, 1 + rng.integers(1, 12))]
        images.append((found((1, 0.5, np.ones((20, 20))), image_id=99), annotate([], (20, 20))))
        expected = coco_ap(images)
        for category_id, result in evaluate(images).items():
            np.testing.assert_allclose((result.ap, result.ap50), expected[category_id], rtol=0, atol=1e-12)


def test_precision_by_recall_is_that_of_cocoeval():
    rng = np.random.default_rng(1)
    images = [random_image(rng, image_id) for image_id in range(1, 20)]
    matches = matches_of_categories([match_image(*pair) for pair in images], category_ids=CATEGORY_IDS)
    for category_id, expected in coco_precision(images).items():
        precision = precision_at_recall(matches[category_id])
        np.testing.assert_allclose(np.where(np.isnan(precision), -1, precision), expected, rtol=0, atol=1e-12)


def test_the_hundred_best_detections_of_a_category_count():
    wrong = [(1, 0.9, RIGHT)] * 100
    images = [(found(*wrong, (1, 0.5, LEFT)), annotate([(1, False, LEFT)]))]
    assert evaluate(images)[1].ap == coco_ap(images)[1][0] == 0
    fewer = [(found(*wrong[1:], (1, 0.5, LEFT)), annotate([(1, False, LEFT)]))]
    assert evaluate(fewer)[1].ap == pytest.approx(coco_ap(fewer)[1][0], abs=1e-12)
    assert evaluate(fewer)[1].ap > 0


def test_a_resampled_ap_is_that_of_the_images_that_were_drawn():
    rng = np.random.default_rng(0)
    of_images = [match_image(*random_image(rng, image_id)) for image_id in range(15)]
    matches = [
        replace(of_image, scores=np.sort(rng.random(len(of_image.scores)))[::-1])  # no two are equal
        for of_image in of_images
    ]
    draws = np.stack([rng.multinomial(len(matches), np.full(len(matches), 1 / len(matches))) for _ in range(20)])
    values = resampled_average_precision(matches_of_categories(matches, category_ids=[1])[1], draws)
    for times, value in zip(draws.tolist(), values, strict=True):
        drawn = [image for image, count in zip(matches, times, strict=True) for _ in range(count)]
        assert value == pytest.approx(
            average_precision(matches_of_categories(drawn, category_ids=[1])[1]).ap, nan_ok=True
        )
