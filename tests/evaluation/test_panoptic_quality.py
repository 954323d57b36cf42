import math

import numpy as np
import pytest

from antvisionps.evaluation.panoptic_quality import (
    SIZES,
    class_quality,
    count_matches,
    group_quality,
    match_segments,
    total_counts,
)
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import measure_segments

CAT, DOG, SKY = 1, 2, 3


def draw(picture):
    """Letters are segments (a = 1, b = 2 …), a dot is void."""
    return np.array([[".abcdefgh".index(pixel) for pixel in line] for line in picture.split()])


def segments_of(ids, categories, crowds=()):
    return measure_segments(ids, category_ids=categories, crowd_ids=frozenset(crowds))


def count(gt_ids, gt_categories, predicted_ids, predicted_categories, *, crowds=()):
    true, predicted = segments_of(gt_ids, gt_categories, crowds), segments_of(predicted_ids, predicted_categories)
    runs = {"gt_runs": find_runs(gt_ids, true), "predicted_runs": find_runs(predicted_ids, predicted)}
    return count_matches(**runs, true=true, predicted=predicted)


def rows(counts):
    """category_id → (tp, fp, fn, iou_sum)"""
    columns = (counts.category_ids, counts.tp, counts.fp, counts.fn, counts.iou_sum)
    return {category_id: tuple(values) for category_id, *values in zip(*(c.tolist() for c in columns), strict=True)}


def test_a_perfect_map_has_a_quality_of_one():
    ids = draw("aab aab ccc")
    categories = {1: CAT, 2: DOG, 3: SKY}
    counts = count(ids, categories, ids, categories)
    assert rows(counts) == {CAT: (1, 0, 0, 1.0), DOG: (1, 0, 0, 1.0), SKY: (1, 0, 0, 1.0)}
    assert all((q.pq, q.sq, q.rq) == (1, 1, 1) for q in class_quality(counts).values())


def test_another_category_is_a_miss_and_a_false_alarm():
    ids = draw("aaa aaa")
    counts = count(ids, {1: CAT}, ids, {1: DOG})
    assert rows(counts) == {CAT: (0, 0, 1, 0.0), DOG: (0, 1, 0, 0.0)}
    assert class_quality(counts)[CAT].pq == 0


def test_an_iou_of_just_a_half_is_no_match():
    assert rows(count(draw("aaaa"), {1: CAT}, draw("aa.."), {1: CAT})) == {CAT: (0, 1, 1, 0.0)}
    assert rows(count(draw("aaaa"), {1: CAT}, draw("aaa."), {1: CAT})) == {CAT: (1, 0, 0, 0.75)}


def test_void_under_a_prediction_leaves_the_union():
    assert rows(count(draw("aa...."), {1: CAT}, draw("aaaaaa"), {1: CAT})) == {CAT: (1, 0, 0, 1.0)}


@pytest.mark.parametrize(("predicted", "false_alarms"), [("..aa", 0), (".aaa", 0), ("aaaa", 1)])
def test_a_prediction_that_lies_mostly_on_void_is_forgiven(predicted, false_alarms):
    counts = count(draw("bb.."), {2: SKY}, draw(predicted), {1: CAT})
    assert rows(counts)[CAT] == (0, false_alarms, 0, 0.0)


def test_a_crowd_is_never_missed_and_forgives_its_own_category_only():
    crowd = draw("aaaa")
    assert rows(count(crowd, {1: CAT}, draw("...."), {}, crowds=[1])) == {CAT: (0, 0, 0, 0.0)}
    assert rows(count(crowd, {1: CAT}, draw("bb.."), {2: CAT}, crowds=[1])) == {CAT: (0, 0, 0, 0.0)}
    assert rows(count(crowd, {1: CAT}, draw("bb.."), {2: DOG}, crowds=[1]))[DOG] == (0, 1, 0, 0.0)


def test_all_void_on_both_sides_counts_nothing():
    counts = count(draw("..."), {}, draw("..."), {})
    assert rows(counts) == {}
    assert class_quality(counts) == {}


def test_an_empty_prediction_misses_everything():
    assert rows(count(draw("aab"), {1: CAT, 2: SKY}, draw("..."), {})) == {CAT: (0, 0, 1, 0.0), SKY: (0, 0, 1, 0.0)}


def test_a_group_without_a_category_has_no_quality_and_no_error():
    ids = draw("aaa")
    quality = group_quality(class_quality(count(ids, {1: SKY}, ids, {1: SKY})), [CAT, DOG])
    assert quality.n_categories == 0
    assert all(math.isnan(value) for value in (quality.pq, quality.sq, quality.rq))


def test_no_image_counts_nothing():
    assert class_quality(total_counts([])) == {}


def test_categories_that_do_not_occur_leave_the_mean():
    ids = draw("aaab")
    quality = group_quality(class_quality(count(ids, {1: CAT, 2: SKY}, ids, {1: CAT, 2: SKY})), [CAT, DOG, SKY])
    assert (quality.pq, quality.n_categories) == (1.0, 2)


def test_sizes_are_those_of_the_true_segment_or_of_the_prediction_without_one():
    ids = np.zeros((100, 100), dtype=np.int32)
    ids[:31, :33], ids[40:72, :32], ids[:, 60:] = 1, 2, 3  # 1023, 1024 and 4000 px
    predicted = np.zeros_like(ids)
    predicted[:31, :33], predicted[80:90, :10] = 1, 2
    true = segments_of(ids, {1: CAT, 2: CAT, 3: SKY})
    found = segments_of(predicted, {1: CAT, 2: DOG})
    matches = match_segments(
        gt_runs=find_runs(ids, true),
        true=[true],
        predicted_runs=find_runs(predicted, found),
        predicted=[found],
    )
    found = {size: rows(*matches.of_size(size, [CAT, DOG]).counts()) for size in SIZES}
    assert found == {"small": {CAT: (1, 0, 0, 1.0)}, "medium": {CAT: (0, 0, 1, 0.0)}, "large": {}}
