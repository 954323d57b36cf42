import numpy as np
import pytest
from scipy.optimize import minimize

from antvisionps.fusion.semantic_weights import fit_semantic_weights


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_are_those_of_the_greatest_likelihood(seed):
    rng = np.random.default_rng(seed)
    probs = rng.beta(2, 1 + 2 * rng.random(3), (500, 3))

    def loss(weights):
        return -np.log(probs @ weights).mean()

    found = fit_semantic_weights(probs)
    sums_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    best = minimize(loss, np.full(3, 1 / 3), bounds=[(1 / 512, 1)] * 3, constraints=[sums_to_one], tol=1e-10)
    assert found.sum() == pytest.approx(1)
    assert loss(found) == pytest.approx(best.fun, abs=3e-6)


def test_an_end_that_knows_nothing_counts_next_to_nothing():
    probs = np.stack([np.full(100, 0.9), np.full(100, 0.1)], axis=1)
    weights = fit_semantic_weights(probs)
    assert 0 < weights[1] < 0.01


def test_without_a_pixel_and_of_equal_ends_the_weights_are_equal():
    assert fit_semantic_weights(np.zeros((0, 2))).tolist() == [0.5, 0.5]
    assert fit_semantic_weights(np.full((7, 4), 0.3)).tolist() == [0.25] * 4


def test_probabilities_below_half_an_8_bit_step_count_as_that():
    probs = np.array([[0.0, 0.4], [0.5, 0.0]])
    np.testing.assert_allclose(fit_semantic_weights(probs), fit_semantic_weights(np.maximum(probs, 1 / 510)))
