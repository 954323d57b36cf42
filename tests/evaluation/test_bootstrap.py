import math
import tracemalloc

import numpy as np
import pytest

from antvisionps.evaluation.bootstrap import ResampledCounts, draw_images, jackknife_error, percentile_interval
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts


def random_counts(rng):
    category_ids = np.sort(rng.choice(np.arange(1, 7), rng.integers(1, 5), replace=False))
    tp, fp, fn = rng.integers(0, 3, (3, len(category_ids)))
    return MatchCounts(category_ids, tp, fp, fn, tp * rng.uniform(0.5, 1, len(category_ids)))


def test_a_sample_scores_as_the_images_that_were_drawn():
    rng = np.random.default_rng(0)
    images = [random_counts(rng) for _ in range(9)]
    draws = draw_images(9, samples=40, seed=1)
    assert (draws.sum(axis=1) == 9).all()
    found = ResampledCounts.of(images, draws).pq([2, 3, 5])
    for times, value in zip(draws, found, strict=True):
        drawn = [image for image, count in zip(images, times.tolist(), strict=True) for _ in range(count)]
        expected = group_quality(class_quality(total_counts(drawn)), [2, 3, 5]).pq
        assert value == pytest.approx(expected, nan_ok=True)


def test_without_any_segment_there_is_no_value():
    nothing = np.zeros(0, dtype=np.int64)
    images = [MatchCounts(nothing, nothing, nothing, nothing, np.zeros(0))] * 3
    values = ResampledCounts.of(images, draw_images(3, samples=5, seed=1)).pq([1, 2])
    assert np.isnan(values).all()
    assert math.isnan(percentile_interval(values).low)
    assert np.isnan(ResampledCounts.of(images, draw_images(3, samples=5, seed=1)).pq([])).all()


def test_the_interval_holds_the_middle_95_percent():
    interval = percentile_interval(np.arange(1001) / 1000)
    assert (interval.low, interval.high) == (pytest.approx(0.025), pytest.approx(0.975))


def test_the_error_of_a_difference_is_that_of_leaving_out_each_image():
    rng = np.random.default_rng(3)
    one, other = ([random_counts(rng) for _ in range(6)] for _ in range(2))

    def pq(images):
        return group_quality(class_quality(total_counts(images)), range(10)).pq

    left_out = [pq(one[:i] + one[i + 1 :]) - pq(other[:i] + other[i + 1 :]) for i in range(6)]
    expected = np.sqrt(5 / 6 * sum((d - np.mean(left_out)) ** 2 for d in left_out))
    assert jackknife_error(one, other, range(10)) == pytest.approx(expected)
    assert jackknife_error(one, one, range(10)) == jackknife_error(one[:1], other[:1], range(10)) == 0


def test_leaving_each_image_out_is_the_sample_of_all_others_and_takes_little_memory():
    rng = np.random.default_rng(3)
    images = [random_counts(rng) for _ in range(9)]
    expected = ResampledCounts.of(images, 1 - np.eye(9, dtype=np.int64)).pq(range(7))
    np.testing.assert_allclose(ResampledCounts.of(images, None).pq(range(7)), expected, rtol=1e-12)
    many = [random_counts(rng) for _ in range(2000)]
    tracemalloc.start()
    jackknife_error(many, many, range(7))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
