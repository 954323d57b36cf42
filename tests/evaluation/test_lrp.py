"""LRP against another package's exhaustive search, and against the formula at every threshold."""

import json
import math

import numpy as np
import pytest

from antvisionps.evaluation.average_precision import match_image, matches_of_categories
from antvisionps.evaluation.lrp import Lrp, class_lrp, detection_lrp, lrp_error, mean_lrp, optimal_lrp
from antvisionps.evaluation.panoptic_quality import MatchCounts
from tests.evaluation.test_average_precision import CATEGORY_IDS, coco_evaluation, of_category, random_image


def slow_optimum(scores, ious, wrong_scores, missed):
    """The least error over all scores as thresholds, by the definition."""
    best = (1.0, math.nan)
    for threshold in sorted({*scores, *wrong_scores}, reverse=True):
        kept = [iou for score, iou in zip(scores, ious, strict=True) if score >= threshold]
        fp = sum(score >= threshold for score in wrong_scores)
        fn = missed + len(scores) - len(kept)
        error = (sum((1 - iou) / 0.5 for iou in kept) + fp + fn) / (len(kept) + fp + fn)
        if error < best[0]:
            best = (error, threshold)
    return best


def test_the_optimum_is_the_least_error_of_all_thresholds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        matches, wrong, missed = rng.integers(0, 8, 3).tolist()
        scores, wrong_scores = (rng.integers(1, 9, n) / 8 for n in (matches, wrong))  # many are equal
        ious = rng.uniform(0.5001, 1, matches)
        found = optimal_lrp(scores=scores, ious=ious, wrong_scores=wrong_scores, missed=missed)
        if not matches + missed:
            assert all(map(math.isnan, (*found.error, found.min_score)))
            continue
        error, threshold = slow_optimum(scores.tolist(), ious.tolist(), wrong_scores.tolist(), missed)
        assert (found.error.lrp, found.min_score) == pytest.approx((error, threshold), nan_ok=True)
        assert 0 <= found.error.lrp <= 1


def test_of_instances_it_is_the_formula_on_cocoevals_matches():
    rng = np.random.default_rng(2)
    images = [random_image(rng, image_id) for image_id in range(1, 31)]
    evaluation = coco_evaluation(images)
    matches = matches_of_categories([match_image(*pair) for pair in images], category_ids=CATEGORY_IDS)
    for category_id in CATEGORY_IDS[:2]:  # the third has no true instance
        scores, ious, wrong, missed = [], [], [], 0
        for found in evaluation.evalImgs:
            if not found or found["category_id"] != category_id or found["aRng"] != evaluation.params.areaRng[0]:
                continue
            table = evaluation.ious[found["image_id"], category_id]
            gt_ids = [one["id"] for one in evaluation._gts[found["image_id"], category_id]]
            missed += int((~found["gtIgnore"].astype(bool)).sum())
            for place, score in enumerate(found["dtScores"]):
                if match := int(found["dtMatches"][0][place]):
                    if not found["dtIgnore"][0][place]:
                        scores.append(score)
                        ious.append(table[place][gt_ids.index(match)])
                        missed -= 1
                else:
                    wrong.append(score)
        as_it_is, optimum = detection_lrp(matches[category_id])
        total = len(scores) + len(wrong) + missed
        expected = (sum((1 - iou) / 0.5 for iou in ious) + len(wrong) + missed) / total
        assert as_it_is.lrp == pytest.approx(expected)
        best = slow_optimum(scores, ious, wrong, missed)
        assert (optimum.error.lrp, optimum.min_score) == pytest.approx(best, nan_ok=True)
        assert len(scores) > 5
        assert wrong


def test_without_instances_there_is_nothing_to_measure():
    as_it_is, optimum = detection_lrp(of_category([], 1))
    assert all(map(math.isnan, (*as_it_is, *optimum.error, optimum.min_score)))


def random_boxes(rng, count):
    return np.concatenate([rng.integers(0, 20, (count, 2)), rng.integers(4, 16, (count, 2))], axis=1).astype(float)


def test_of_boxes_it_is_what_vernier_finds():
    """One box a category and image, so that matching has no choice; some truths are not found, some finds are wrong."""
    vernier = pytest.importorskip("vernier.instance")
    rng = np.random.default_rng(1)
    images, gt, found = range(40), [], []
    expected_of = {1: ([], [], [], 0), 2: ([], [], [], 0)}
    for image in images:
        for category in expected_of:
            scores, ious, wrong, missed = expected_of[category]
            (box, other), score = random_boxes(rng, 2), float(rng.integers(1, 100)) / 100
            has_gt, is_found = rng.random(2) < 0.8
            moved = box + np.array([float(rng.integers(0, 5)), 0, 0, 0]) if rng.random() < 0.8 else other
            if has_gt:
                gt.append({"id": len(gt) + 1, "image_id": image, "category_id": category, "bbox": box.tolist()})
                gt[-1] |= {"area": box[2] * box[3], "iscrowd": 0}
            if is_found:
                found.append({"image_id": image, "category_id": category, "bbox": moved.tolist(), "score": score})
            iou = box_iou(box, moved) if has_gt and is_found else 0.0
            if iou >= 0.5:  # as boxes match
                scores.append(score)
                ious.append(iou)
            else:
                missed += has_gt
                wrong += [score] * bool(is_found)
            expected_of[category] = (scores, ious, wrong, missed)
    document = {"images": [{"id": n, "height": 64, "width": 64} for n in images], "annotations": gt}
    document |= {"categories": [{"id": n, "name": str(n)} for n in expected_of]}
    thresholds = sorted({row["score"] for row in found})
    report = vernier.optimal_lrp(json.dumps(document).encode(), json.dumps(found).encode(), tau_grid=thresholds)
    for row in report.per_class:
        scores, ious, wrong, missed = expected_of[row.category_id]
        arrays = {"scores": np.array(scores), "ious": np.array(ious), "wrong_scores": np.array(wrong)}
        optimum = optimal_lrp(**arrays, missed=missed)
        error = optimum.error
        found_row = (error.lrp, error.localisation / 0.5, error.fp, error.fn)  # vernier's is over 1 - tau
        assert len(scores) > 5
        assert found_row == pytest.approx((row.olrp, row.olrp_loc, row.olrp_fp, row.olrp_fn), abs=1e-6)
        assert optimum.min_score == pytest.approx(row.tau)


def box_iou(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (one[2:].prod() + other[2:].prod() - shared))


def test_a_perfect_map_has_no_error_and_a_wrong_one_all():
    assert lrp_error(3, 0, 0, 3.0) == (0, 0, 0, 0)
    assert lrp_error(0, 2, 3, 0.0) == pytest.approx((1, math.nan, 1, 1), nan_ok=True)
    assert lrp_error(2, 1, 1, 1.5) == pytest.approx((3 / 4, 1 / 4, 1 / 3, 1 / 3))


def test_a_category_without_segments_leaves_the_means():
    counts = MatchCounts(
        *(np.array(column) for column in ([1, 2, 3], [1, 0, 0], [1, 0, 0], [0, 0, 2], [0.75, 0.0, 0.0]))
    )
    of_class = class_lrp(counts)
    assert all(map(math.isnan, of_class[2]))
    assert mean_lrp(of_class.values()) == pytest.approx((1 / 2 * (1.5 / 2 + 1), 1 / 4, 1 / 2, 1 / 2))
    assert all(map(math.isnan, mean_lrp([])))
    assert isinstance(of_class[1], Lrp)
