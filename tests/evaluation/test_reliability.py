"""Reliability against scikit-learn's calibration curve, and the expected error against its definition."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from antvisionps.evaluation.reliability import BINS, Reliability
from antvisionps.evaluation.semantic_reliability import semantic_reliability
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set, draw_ids

CAT, DOG, SKY = 7, 9, 4
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky"})


@pytest.mark.parametrize("confidence", [np.random.default_rng(0).random(500), np.arange(31) / 30])
def test_bins_are_those_of_sklearn(confidence):
    is_right = np.random.default_rng(1).random(len(confidence)) < confidence**2
    found = Reliability.of(confidence, is_right)
    expected = calibration_curve(is_right, confidence, n_bins=BINS)
    means = [mean[found.count > 0] for mean in found.means()]
    np.testing.assert_allclose(means, expected[::-1], atol=1e-12)
    shares = found.count[found.count > 0] / len(confidence)
    assert found.expected_error() == pytest.approx(np.sum(shares * np.abs(means[0] - means[1])))


def test_parts_add_up_and_weights_count_as_repetitions():
    rng = np.random.default_rng(2)
    confidence, is_right, times = rng.random(60), rng.random(60) < 0.5, rng.integers(0, 4, 60)
    whole = Reliability.of(confidence.repeat(times), is_right.repeat(times))
    parts = [Reliability.of(confidence[half], is_right[half], times[half]) for half in (slice(30), slice(30, None))]
    for name in ("count", "right", "confidence_sum"):
        np.testing.assert_allclose(getattr(Reliability.total(parts), name), getattr(whole, name))


def test_nothing_has_no_error_and_sure_and_right_has_none():
    assert np.isnan(Reliability.of(np.zeros(0), np.zeros(0, bool)).expected_error())
    assert Reliability.of(np.ones(3), np.ones(3, bool)).expected_error() == 0
    assert Reliability.of(np.ones(3), np.zeros(3, bool)).expected_error() == 1


def semantics(planes, *, hw, input_hw, stride, category_ids=(CAT, DOG, SKY)):
    planes = np.array(planes, np.uint8)
    shape = {"height": hw[0], "width": hw[1], "input_height": input_hw[0], "input_width": input_hw[1]}
    return ImageSemantics(1, **shape, stride=stride, category_ids=np.array(category_ids, np.int32), planes=planes)


def image_of(ids, categories):
    return PanopticImage(1, "a.jpg", "a.png", *ids.shape, measure_segments(ids, category_ids=categories))


def test_cells_are_compared_with_the_pixel_at_their_centre():
    """A photo of 4 x 8 shown to the network at half its size in cells of 1 px; the last column is void."""
    ids = draw_ids("aaaaaa.. aaaaaa.. bbbbbb.. bbbbbb..")
    planes = np.zeros((3, 2, 4))
    planes[0, 0], planes[2, 0, 1] = 102, 153  # the second cell of the upper row is taken for sky
    planes[2, 1], planes[1, 1, 2] = 255, 255  # equal probabilities: the lower class index, the dog
    predicted = semantics(planes, hw=(4, 8), input_hw=(2, 4), stride=1.0)
    found = semantic_reliability(predicted, ids, image_of(ids, {1: CAT, 2: SKY}), CATEGORIES)
    assert found.count.sum() == 6
    expected = Reliability.of(np.array([0.4, 0.6, 0.4, 1, 1, 1]), np.array([1, 0, 1, 1, 1, 0], bool))
    for name in ("count", "right", "confidence_sum"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


def test_cells_beyond_the_photo_and_without_a_probability_are_not_right():
    """Cells of 4 px on 6 x 6: the centres of the second row and column lie on the last pixel but one."""
    ids = draw_ids(" ".join(["aaaaa"] * 5))
    predicted = semantics(np.zeros((1, 2, 2)), hw=(5, 5), input_hw=(5, 5), stride=4.0, category_ids=[CAT])
    found = semantic_reliability(predicted, ids, image_of(ids, {1: CAT}), CATEGORIES)
    assert (found.count.sum(), found.right.sum()) == (1, 0)
