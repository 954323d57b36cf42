"""How probable it is that a segment counts in PQ, and from which probability on it pays to keep one.

A logistic regression gives the probability p that a segment matches a true one of its category (IoU above 0.5) and is
no copy of a better one, from features that mean the same for every category:

    log(p / (1 - p)) = b + b_category + w · (x - mean) / deviation

Weights and the b of each category have a normal prior (an L2 penalty), so that a category of few held-out segments
stays near what all have in common.

Keeping a segment adds p · SQ to the numerator of PQ and 1/2 to its denominator, so it raises the expected PQ of its
category where p · SQ > PQ / 2, that is p > RQ / 2: half the optimum is the threshold of the optimum (Lipton, Elkan,
Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure", theorem 1).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from antvisionps.core.documents import Document

PENALTY = 1.0
"""Of the square of a weight, where features have deviation 1; 0.3 to 10 give the same held-out PQ within 0.3."""

ROUNDING = 1e-9
"""A deviation of less, beside a mean of 1, is none."""

MAX_LOGIT = 30.0
MAX_STEP, CONVERGED, MAX_ITERATIONS = 5.0, 1e-9, 100
"""Of Newton's method, in logits."""


class QualityModel(Document):
    """A fitted regression of F features. `bias_of_category` has every category that it is asked for."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    bias_of_category: dict[int, float]

    def probabilities(self, features: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
        """(N,) float64 between 0 and 1, of (N, F) features of segments of these categories (N,)."""
        own = [self.bias + self.bias_of_category[category_id] for category_id in category_ids.tolist()]
        standard = (features - np.array(self.means)) / np.array(self.deviations)
        # A sum in fixed order: a matrix product's last bits may depend on how many rows it has.
        logits = np.array(own) + (standard * np.array(self.weights)).sum(axis=1)
        return _sigmoid(logits)


def found_first(gt: Sequence[int | None], scores: Sequence[float]) -> np.ndarray:
    """(N,) bool, of the instances of one image: whether each is the one with the best score that matches its true
    segment, or with the first of equal scores. `gt`: which segment it matches, if any."""
    best: dict[int, int] = {}
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        position = gt[index]
        if position is not None:
            best.setdefault(position, index)
    is_first = np.zeros(len(scores), dtype=bool)
    is_first[list(best.values())] = True
    return is_first


def fit_quality(
    features: np.ndarray, category_ids: np.ndarray, is_right: np.ndarray, *, categories: list[int]
) -> QualityModel:
    """The regression of (N, F) features on whether each of N segments matches; `categories` lists all that may be asked
    for. Without a segment the probability of all is a half."""
    means = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
    deviations = features.std(axis=0) if len(features) else np.ones(features.shape[1])
    # Equal numbers have a deviation of rounding, as their mean is rounded.
    deviations = np.where(deviations > ROUNDING * np.maximum(np.abs(means), 1), deviations, 1.0)
    is_category = category_ids[:, None] == np.array(categories, dtype=np.int64)
    design = np.hstack([np.ones((len(features), 1)), (features - means) / deviations, is_category])
    penalties = np.full(design.shape[1], PENALTY)
    penalties[0] = PENALTY if is_right.all() or not is_right.any() else CONVERGED  # else the bias has an optimum
    found = fit_logistic(design, is_right.astype(np.float64), penalties).tolist()
    last = 1 + features.shape[1]
    return QualityModel(
        means=tuple(means.tolist()),
        deviations=tuple(deviations.tolist()),
        weights=tuple(found[1:last]),
        bias=found[0],
        bias_of_category=dict(zip(categories, found[last:], strict=True)),
    )


def fit_logistic(design: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """(D,) weights w that minimise Σ log loss + ½ Σ penalty · w² for (N, D) columns and (N,) targets from 0 to 1, by
    Newton's method."""
    weights = np.zeros(design.shape[1])
    for _ in range(MAX_ITERATIONS):
        probs = _sigmoid(design @ weights)
        gradient = design.T @ (probs - targets) + penalties * weights
        curvature = (design * (probs * (1 - probs))[:, None]).T @ design + np.diag(penalties)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, MAX_STEP / max(np.abs(step).max(), CONVERGED))
        if np.abs(step).max() < CONVERGED:
            break
    return weights


def least_probability(probabilities: np.ndarray, n_gt: int) -> float:
    """From which probability on segments of a category are kept for the largest expected RQ among n_gt true ones.

    Of the k most probable segments RQ is Σ p / ((k + n_gt) / 2); half of its maximum over k is the threshold. Without a
    segment it is 0.
    """
    if not len(probabilities):
        return 0.0
    best_first = np.sort(probabilities)[::-1]
    expected_rq = 2 * np.cumsum(best_first) / (np.arange(1, len(best_first) + 1) + n_gt)
    return float(min(1.0, expected_rq.max() / 2))


def least_probabilities(
    probabilities: np.ndarray, category_ids: np.ndarray, n_gt: Mapping[int, int]
) -> dict[int, float]:
    """category_id → `least_probability` of its segments, for each category of n_gt."""
    return {
        category_id: least_probability(probabilities[category_ids == category_id], gt)
        for category_id, gt in n_gt.items()
    }


def logit(probs: np.ndarray, *, floor: float) -> np.ndarray:
    """log(p / (1 - p)) of probabilities that are kept from floor to 1 - floor."""
    kept = np.clip(probs, floor, 1 - floor)
    return np.log(kept / (1 - kept))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT)))
