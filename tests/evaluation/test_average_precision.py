import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from antvisionps.core.errors import CacheError
from antvisionps.evaluation.average_precision import (
    GtInstances,
    average_precision,
    class_average_precision,
    gt_instances,
    match_detections,
    match_image,
    resampled_average_precision,
)
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.instances import ImageInstances

CATEGORY_IDS = (1, 2, 3)


def draw(picture):
    return np.array([[pixel == "#" for pixel in line] for line in picture.split()])


def predict(image_id, rows, hw=(3, 4)):
    masks = np.array([mask for _, _, mask in rows]).reshape(len(rows), *hw)
    return ImageInstances(
        image_id=image_id,
        height=hw[0],
        width=hw[1],
        category_ids=np.array([category_id for category_id, _, _ in rows], np.int32),
        scores=np.array([score for _, score, _ in rows], np.float32),
        boxes_xywh=np.zeros((len(rows), 4), np.float32),
        rles=encode_masks(masks) if rows else [],
        mask_probs=None,
    )


def annotate(rows, hw=(3, 4)):
    """True instances from (category_id, is_crowd, mask)."""
    masks = np.array([mask for _, _, mask in rows]).reshape(len(rows), *hw)
    return GtInstances(
        np.array([category_id for category_id, _, _ in rows], np.int32),
        encode_masks(masks) if rows else [],
        np.array([is_crowd for _, is_crowd, _ in rows], bool),
    )


def evaluate(images, category_ids=CATEGORY_IDS):
    return class_average_precision((match_image(*pair) for pair in images), category_ids=category_ids)


LEFT, RIGHT = draw("##.. ##.. ##.."), draw("..## ..## ..##")


def test_perfect_predictions_have_an_ap_of_one():
    found = evaluate([(predict(1, [(1, 0.9, LEFT)]), annotate([(1, False, LEFT)]))])[1]
    assert found.ap == pytest.approx(1)
    assert found.ap50 == pytest.approx(1)
    assert found.n_gt == 1


def test_wholly_wrong_predictions_have_an_ap_of_zero():
    assert evaluate([(predict(1, [(1, 0.9, RIGHT)]), annotate([(1, False, LEFT)]))])[1].ap == 0


def test_a_category_that_was_not_found_has_an_ap_of_zero():
    assert evaluate([(predict(1, []), annotate([(1, False, LEFT)]))])[1].ap == 0


def test_a_mask_that_is_not_what_the_cache_says_is_refused_before_it_is_compared():
    found = replace(
        predict(7, [(1, 0.9, LEFT)]), stored_areas_px=np.array([5]), source=Path("e_ups/heldout/instances.parquet")
    )
    with pytest.raises(CacheError, match=r"heldout/instances\.parquet: image 7: area_px disagrees .*dvc repro"):
        match_image(found, annotate([(1, False, LEFT)]))


def test_a_category_without_ground_truth_has_no_ap():
    found = evaluate([(predict(1, [(2, 0.9, LEFT)]), annotate([(1, False, LEFT)]))])
    assert np.isnan(found[2].ap)
    assert np.isnan(found[3].ap50)
    assert (found[2].n_gt, found[3].n_gt) == (0, 0)


def test_a_category_with_crowds_only_has_no_ap():
    found = evaluate([(predict(1, [(1, 0.9, LEFT)]), annotate([(1, True, LEFT)]))])[1]
    assert np.isnan(found.ap)
    assert found.n_gt == 0


def test_detections_in_a_crowd_are_neither_right_nor_wrong():
    truth = annotate([(1, False, LEFT), (1, True, RIGHT)])
    in_crowd = [(1, 0.95, draw("..#. .... ....")), (1, 0.93, draw("...# .... ...."))]
    assert evaluate([(predict(1, [*in_crowd, (1, 0.9, LEFT)]), truth)])[1].ap == pytest.approx(1)


def test_a_second_detection_of_one_instance_is_wrong():
    matches = match_detections(np.array([0.9, 0.8]), np.array([[1.0], [1.0]]), np.array([False]))
    assert matches.matched[0].tolist() == [True, False]
    assert not matches.ignored.any()


def test_no_image_has_no_ap():
    assert np.isnan(average_precision([]).ap)


def test_true_instances_are_cut_out_of_the_panoptic_map():
    segment_ids = np.array([[7, 7, 0], [900, 7, 900]])
    found = gt_instances(segment_ids, {900: (2, True), 7: (1, False)})
    assert found.category_ids.tolist() == [2, 1]
    assert found.is_crowd.tolist() == [True, False]
    assert found.rles == encode_masks(np.stack([segment_ids == 900, segment_ids == 7]))
    assert gt_instances(segment_ids, {}).rles == []


def coco_ap(images, category_ids=CATEGORY_IDS):
    """category_id → (AP, AP50) by pycocotools, from the same masks."""
    truth = {"images": [], "annotations": [], "categories": [{"id": category_id} for category_id in category_ids]}
    results = []
    for predicted, true in images:
        size = [predicted.height, predicted.width]
        truth["images"].append({"id": predicted.image_id, "height": size[0], "width": size[1]})
        for category_id, rle, is_crowd in zip(true.category_ids, true.rles, true.is_crowd, strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": predicted.image_id,
                    "category_id": int(category_id),
                    "segmentation": {"size": size, "counts": bytes(rle).decode()},
                    "area": 1,
                    "iscrowd": int(is_crowd),
                }
            )
        for category_id, score, rle in zip(predicted.category_ids, predicted.scores, predicted.rles, strict=True):
            results.append(
                {
                    "image_id": predicted.image_id,
                    "category_id": int(category_id),
                    "segmentation": {"size": size, "counts": bytes(rle).decode()},
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections
    means = {}
    for index, category_id in enumerate(sorted(category_ids)):
        of_category = precision[:, :, index]
        known = (of_category > -1).all()
        means[category_id] = (of_category.mean(), of_category[0].mean()) if known else (np.nan, np.nan)
    return means


def random_image(rng, image_id):
    """Boxy truths, shifted and ragged copies of them as detections, detections out of nowhere, many equal scores."""
    hw = tuple(rng.integers(20, 40, 2).tolist())
    gt_rows, rows = [], []
    for _ in range(rng.integers(0, 7)):
        y, x = rng.integers(0, hw[0] - 5), rng.integers(0, hw[1] - 5)
        height, width = rng.integers(2, 14, 2)
        mask = np.zeros(hw, dtype=bool)
        mask[y : y + height, x : x + width] = True
        category_id = int(rng.choice(CATEGORY_IDS[:2]))
        gt_rows.append((category_id, rng.random() < 0.2, mask))
        for _ in range(rng.integers(0, 4)):
            shifted = np.roll(mask, rng.integers(-1, 2, 2), axis=(0, 1)) & (
                rng.random(hw) < rng.choice([0.8, 0.95, 1.0])
            )
            rows.append((category_id, rng.integers(1, 10) / 10, shifted))
    for _ in range(rng.integers(0, 4)):
        mask = np.zeros(hw, dtype=bool)
        mask[: rng.integers(1, 9), : rng.integers(1, 9)] = True
        rows.append((int(rng.choice(CATEGORY_IDS)), rng.random(), mask))
    return predict(image_id, rows, hw).sorted_by_score(), annotate(gt_rows, hw)


def test_ap_is_that_of_cocoeval():
    rng = np.random.default_rng(0)
    for _ in range(12):
        images = [random_image(rng, image_id) for image_id in range(1, 1 + rng.integers(1, 12))]
        images.append((predict(99, [(1, 0.5, np.ones((20, 20)))], (20, 20)), annotate([], (20, 20))))
        expected = coco_ap(images)
        for category_id, found in evaluate(images).items():
            np.testing.assert_allclose((found.ap, found.ap50), expected[category_id], rtol=0, atol=1e-12)


def test_the_hundred_best_detections_of_a_category_count():
    wrong = [(1, 0.9, RIGHT)] * 100
    images = [(predict(1, [*wrong, (1, 0.5, LEFT)]), annotate([(1, False, LEFT)]))]
    assert evaluate(images)[1].ap == coco_ap(images)[1][0] == 0
    fewer = [(predict(1, [*wrong[1:], (1, 0.5, LEFT)]), annotate([(1, False, LEFT)]))]
    assert evaluate(fewer)[1].ap == pytest.approx(coco_ap(fewer)[1][0], abs=1e-12)
    assert evaluate(fewer)[1].ap > 0


def test_a_resampled_ap_is_that_of_the_images_that_were_drawn():
    rng = np.random.default_rng(0)
    of_images = [match_image(*random_image(rng, image_id)) for image_id in range(15)]
    matches = [
        replace(of_image[1], scores=np.sort(rng.random(len(of_image[1].scores)))[::-1])  # no two are equal
        for of_image in of_images
        if 1 in of_image
    ]
    draws = np.stack([rng.multinomial(len(matches), np.full(len(matches), 1 / len(matches))) for _ in range(20)])
    found = resampled_average_precision(matches, draws)
    for times, value in zip(draws.tolist(), found, strict=True):
        drawn = [image for image, count in zip(matches, times, strict=True) for _ in range(count)]
        assert value == pytest.approx(average_precision(drawn).ap, nan_ok=True)
    assert np.isnan(resampled_average_precision([], draws[:, :0])).all()
