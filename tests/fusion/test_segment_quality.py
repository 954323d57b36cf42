import contextlib
import itertools

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import minimize

from antvisionps.fusion.segment_quality import (
    PENALTY,
    fit_logistic,
    fit_quality,
    found_first,
    least_probabilities,
    least_probability,
    logit,
)

RNG_SEEDS = range(3)
CAT, DOG = 3, 8


def segments(seed, n=60):
    """Features, categories, and whether segments are right, which the first feature and the category tell."""
    rng = np.random.default_rng(seed)
    features, category_ids = rng.normal(2.0, [1.0, 5.0], (n, 2)), rng.choice([CAT, DOG], n)
    chance = 1 / (1 + np.exp(-(features[:, 0] - 2) - (category_ids == CAT)))
    return features, category_ids, rng.random(n) < chance


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_the_regression_is_the_minimum_that_scipy_finds_of_the_penalised_log_loss(seed):
    rng = np.random.default_rng(seed)
    design, targets, penalties = rng.normal(0, 2, (40, 5)), rng.random(40), rng.uniform(0.1, 3, 5)

    def loss(weights):
        logits = design @ weights
        return np.sum(np.logaddexp(0, logits) - targets * logits) + 0.5 * penalties @ weights**2

    expected = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(fit_logistic(design, targets, penalties), expected.x, atol=1e-5)


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_probabilities_follow_the_formula_one_segment_at_a_time(seed):
    features, category_ids, is_right = segments(seed)
    model = fit_quality(features, category_ids, is_right, categories=[CAT, DOG])
    slow = []
    for row, category_id in zip(features.tolist(), category_ids.tolist(), strict=True):
        of_feature = zip(row, model.means, model.deviations, model.weights, strict=True)
        total = model.bias + model.bias_of_category[category_id] + sum(w * (x - m) / d for x, m, d, w in of_feature)
        slow.append(1 / (1 + np.exp(-total)))
    probs = model.probabilities(features, category_ids)
    np.testing.assert_allclose(probs, slow, rtol=1e-12)
    assert probs.mean() == pytest.approx(is_right.mean(), abs=1e-6)  # the free bias makes them right on average
    alone = [model.probabilities(features[i : i + 1], category_ids[i : i + 1])[0] for i in range(len(features))]
    np.testing.assert_array_equal(probs, alone)


def test_a_category_of_few_segments_stays_near_what_all_have_in_common():
    features, category_ids, is_right = np.zeros((102, 1)), np.full(102, CAT), np.arange(102) % 2 == 0
    category_ids[:2], is_right[:2] = DOG, True
    model = fit_quality(features, category_ids, is_right, categories=[CAT, DOG, 11])
    cat, dog, unseen = model.probabilities(np.zeros((3, 1)), np.array([CAT, DOG, 11]))
    assert cat < 0.51 < dog < 0.75
    assert cat < unseen < dog
    assert PENALTY > 0


def test_nothing_to_fit_on_and_segments_all_alike_give_finite_probabilities():
    empty = fit_quality(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0, bool), categories=[CAT])
    assert empty.probabilities(np.ones((1, 2)), np.array([CAT])).tolist() == [0.5]
    alike = fit_quality(np.ones((5, 2)), np.full(5, CAT), np.ones(5, bool), categories=[CAT])
    assert 0.5 < alike.probabilities(np.ones((1, 2)), np.array([CAT]))[0] < 1


def test_copies_are_as_wrong_as_for_pycocotools():
    """Truth is columns of ten pixels; instances are stretches of them, some of the same column."""
    rng = np.random.default_rng(5)
    starts, lengths, scores = rng.integers(0, 60, 40), rng.integers(5, 14, 40), rng.integers(0, 4, 40) / 4
    truth = [{"id": n + 1, "bbox": [10 * n, 0, 10, 1], "area": 10, "iscrowd": 0} for n in range(7)]
    found = [
        {"bbox": [start, 0, length, 1], "score": score}
        for start, length, score in zip(*(column.tolist() for column in (starts, lengths, scores)), strict=True)
    ]
    same = {"image_id": 1, "category_id": 1}
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [row | same for row in truth]}
    with contextlib.redirect_stdout(None):
        coco.createIndex()
        scoring = COCOeval(coco, coco.loadRes([row | same for row in found]), "bbox")
        scoring.params.iouThrs = np.array([0.5 + 1e-9])
        scoring.evaluate()
    (evaluated,) = [one for one in scoring.evalImgs if one is not None and one["aRng"] == scoring.params.areaRng[0]]
    expected = {id_ for id_, match in zip(evaluated["dtIds"], evaluated["dtMatches"][0], strict=True) if match > 0}

    overlap = [
        [min(s + n, 10 * k + 10) - max(s, 10 * k) for k in range(7)] for s, n in zip(starts, lengths, strict=True)
    ]
    ious = [[max(o, 0) / (10 + n - max(o, 0)) for o in row] for row, n in zip(overlap, lengths, strict=True)]
    gt = [int(np.argmax(row)) if max(row) > 0.5 else None for row in ious]
    assert {index + 1 for index in np.flatnonzero(found_first(gt, scores.tolist())).tolist()} == expected
    assert len(expected) < sum(position is not None for position in gt)  # there are copies
    assert found_first([], []).shape == (0,)


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_keeps_the_subset_of_the_largest_expected_rq(seed):
    """Of all subsets, tried one by one."""
    rng = np.random.default_rng(seed)
    probs, n_gt = rng.random(rng.integers(1, 9)), int(rng.integers(0, 9))

    def expected_rq(kept):
        return 2 * sum(kept) / (len(kept) + n_gt)

    subsets = [subset for size in range(1, len(probs) + 1) for subset in itertools.combinations(probs.tolist(), size)]
    best = max(map(expected_rq, subsets))
    least = least_probability(probs, n_gt)
    assert least == pytest.approx(best / 2)
    assert expected_rq([p for p in probs.tolist() if p >= least]) == pytest.approx(best)


def test_each_category_has_a_threshold_of_its_own_and_without_a_segment_keeps_all():
    least = least_probabilities(np.array([0.9, 0.2, 1.0]), np.array([CAT, CAT, DOG]), {CAT: 1, DOG: 1, 11: 4})
    assert least == {CAT: pytest.approx(0.45), DOG: 0.5, 11: 0.0}


def test_logits_are_bounded_by_the_floor():
    assert logit(np.array([0.0, 0.5, 1.0]), floor=0.01).tolist() == pytest.approx([-np.log(99), 0, np.log(99)])


@pytest.mark.parametrize("count", [5, 10, 20, 40])
def test_a_feature_that_is_the_same_everywhere_says_nothing_of_another_value(count):
    features = np.full((count, 1), logit(np.array(0.99), floor=0.01))
    model = fit_quality(features, np.full(count, CAT), np.arange(count) > 0, categories=[CAT])
    same, other = model.probabilities(np.array([features[0], [4.0]]), np.array([CAT, CAT]))
    assert other == pytest.approx(same, abs=0.05)
