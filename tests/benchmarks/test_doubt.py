import numpy as np
import pytest

from benchmarks.doubt import LEVELS, most_doubtful


@pytest.mark.parametrize("seed", range(3))
def test_the_most_doubtful_pixels_are_those_of_a_sort(seed):
    rng = np.random.default_rng(seed)
    doubt, is_wrong = rng.permutation(LEVELS), rng.random(LEVELS) < 0.3  # every level once: no ties
    pixels, wrong = (np.bincount(doubt[counts], minlength=LEVELS) for counts in (np.full(LEVELS, True), is_wrong))
    order = np.argsort(-doubt)
    for count in (1, 10, 100, LEVELS):
        assert most_doubtful(count / LEVELS, pixels, wrong) == pytest.approx(is_wrong[order][:count].sum())


def test_of_equally_doubtful_pixels_a_share_is_taken():
    pixels, wrong = np.zeros(LEVELS), np.zeros(LEVELS)
    pixels[[0, 200]], wrong[[0, 200]] = 90, [9, 45]
    assert most_doubtful(0.25, pixels, wrong) == pytest.approx(22.5)
