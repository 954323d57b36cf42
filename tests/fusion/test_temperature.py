"""Temperatures of semantic probabilities against scipy's softmax and scipy's minimum."""

import tracemalloc

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.semantic_average import FLOOR
from antvisionps.fusion.system import FusionSettings, average_weighted
from antvisionps.fusion.temperature import TRIED, TemperatureLoss, read_temperatures, temper, write_temperatures
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set
from tests.evaluation.test_disagreement import CATEGORIES, IDS, random_end, semantics


def test_it_is_the_softmax_of_log_probabilities_over_the_temperature():
    rng = np.random.default_rng(0)
    for temperature in (0.4, 1.0, 2.5):
        image = random_end(rng)
        found = temper(image, temperature)
        with np.errstate(divide="ignore"):
            logs = np.log(image.planes.astype(float))
        is_known = image.planes.any(axis=0)
        expected = 255 * softmax(logs[:, is_known] / temperature, axis=0)
        if temperature != 1:
            np.testing.assert_allclose(found.planes[:, is_known], expected, atol=0.501)
        assert not found.planes[:, ~is_known].any()
        sure = found.planes[:, is_known].argmax(axis=0) == image.planes[:, is_known].argmax(axis=0)
        assert sure.all()
    assert temper(image, 1.0) is image


def image_of(gt):
    """Of (3, 5) cells of 4 pixels their true class index, -1 for void."""
    cells = np.array(gt).repeat(4, 0).repeat(4, 1)
    ids = cells + 1
    segments = measure_segments(ids, category_ids={i + 1: IDS[i] for i in np.unique(cells).tolist() if i >= 0})
    return ids, PanopticImage(1, "a.jpg", "a.png", 12, 20, tuple(segments))


def slow_loss(images, temperature):
    """The mean of -log p of the true class; below FLOOR it counts as FLOOR."""
    losses = []
    for end, gt in images:
        for (row, column), true in np.ndenumerate(gt):
            if true >= 0:
                probs = end.planes[:, row, column] / 255
                probs[true] = max(probs[true], FLOOR)
                with np.errstate(divide="ignore"):
                    losses.append(-log_softmax(np.log(probs) / temperature)[true])
    return np.mean(losses)


@pytest.mark.parametrize("sharpened", [0.5, 1.0, 1.8])
def test_the_fitted_temperature_is_scipys_minimum(sharpened):
    """Truths are drawn from the probabilities, which are then said more or less surely."""
    rng = np.random.default_rng(1)
    images = []
    for _ in range(20):
        probs = rng.dirichlet(np.ones(3), (3, 5))
        gt = (rng.random((3, 5, 1)) < probs.cumsum(axis=2)).argmax(axis=2)
        gt[rng.random((3, 5)) < 0.2] = -1
        said = probs**sharpened / (probs**sharpened).sum(axis=2, keepdims=True)
        images.append((semantics(np.rint(255 * said).transpose(2, 0, 1)), gt))
    loss = TemperatureLoss.total([TemperatureLoss.of(end, *image_of(gt), CATEGORIES) for end, gt in images])
    assert loss.cells == sum((gt >= 0).sum() for _, gt in images)
    best = minimize_scalar(lambda temperature: slow_loss(images, temperature), bounds=(0.25, 4), method="bounded")
    assert loss.best_temperature() == pytest.approx(best.x, rel=0.01)
    assert loss.sums[16] / loss.cells == pytest.approx(slow_loss(images, 1.0))


def test_without_labelled_cells_nothing_is_changed():
    ids, image = image_of(np.full((3, 5), -1))
    loss = TemperatureLoss.of(random_end(np.random.default_rng(2)), ids, image, CATEGORIES)
    assert (loss.cells, loss.best_temperature()) == (0, 1.0)


def test_the_average_is_of_the_ends_at_their_temperatures():
    rng = np.random.default_rng(3)
    ends = {"a": random_end(rng), "b": random_end(rng)}
    weights, rules = {"a": 1.0, "b": 2.0}, HeuristicRules(0.5, 0.5, 1)
    plain = FusionSettings("heuristic", rules, weights, "probabilities", None, None)
    tempered = FusionSettings("heuristic", rules, weights, "probabilities", None, None, None, {"a": 2.0})
    found, expected = (
        average_weighted(of, categories=CATEGORIES, settings=settings)
        for of, settings in ((ends, tempered), ({"a": temper(ends["a"], 2.0), "b": ends["b"]}, plain))
    )
    np.testing.assert_array_equal(found.sums, expected.sums)
    assert not np.array_equal(found.sums, average_weighted(ends, categories=CATEGORIES, settings=plain).sums)


def test_temperatures_are_read_back_and_a_broken_file_is_refused(tmp_path):
    assert read_temperatures(tmp_path) == {}
    write_temperatures(tmp_path, {"b": 2.0, "a": 0.5})
    assert read_temperatures(tmp_path) == {"a": 0.5, "b": 2.0}
    (tmp_path / "temperatures.json").write_text('{"a": 0}')
    with pytest.raises(CacheError, match=r"temperatures.json: not the table of temperatures.*dvc repro calibrate"):
        read_temperatures(tmp_path)


def test_classes_that_nobody_predicts_take_no_memory():
    """81 MB if each of the 254 had a plane in float64."""
    known = category_set({1: "cat"}, {n: f"stuff {n}" for n in range(2, 255)})
    planes = np.full((2, 200, 200), 100, dtype=np.uint8)
    predicted = ImageSemantics(1, 200, 200, 200, 200, 1.0, np.array([2, 200], np.int32), planes)
    ids = np.ones((200, 200), dtype=np.int32)
    image = PanopticImage(1, "a.jpg", "a.png", 200, 200, tuple(measure_segments(ids, category_ids={1: 3})))
    tracemalloc.start()
    loss = TemperatureLoss.of(predicted, ids, image, known)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    at_1 = loss.sums[np.abs(TRIED - 1).argmin()] / 40_000
    assert at_1 == pytest.approx(-np.log(FLOOR) + np.log(2 * 100 / 255 + FLOOR), rel=1e-6)
