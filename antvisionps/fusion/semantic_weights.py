"""How much each end's semantics count in their average: the weights under which held-out truth is likeliest.

With p_e(x) what end e gives the true class of pixel x, the weights maximise

    Σ_x log Σ_e w_e · p_e(x)        w_e ≥ 0, Σ_e w_e = 1

a concave problem (Smyth, Wolpert 1999, "Linearly combining density estimators via stacking"), which
expectation-maximisation solves: w_e ← mean over x of w_e · p_e(x) / Σ_e w_e · p_e(x).
"""

import numpy as np

from antvisionps.fusion.semantic_average import FLOOR

MAX_PASSES, CONVERGED = 1000, 1e-6


def fit_semantic_weights(true_probs: np.ndarray) -> np.ndarray:
    """(E,) weights that add up to 1, from (N, E) probabilities that each end gives the truth of N pixels; equal ones
    without a pixel. No end's is 0."""
    pixels, ends = true_probs.shape
    weights = np.full(ends, 1 / ends)
    if not pixels:
        return weights
    probs = np.maximum(true_probs.astype(np.float64), FLOOR)
    for _ in range(MAX_PASSES):
        shares = probs * weights
        shares /= shares.sum(axis=1, keepdims=True)
        before, weights = weights, np.maximum(shares.mean(axis=0), FLOOR)
        weights = weights / weights.sum()
        if np.abs(weights - before).max() < CONVERGED:
            break
    return weights
