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
from tests.drawing import draw_ids

CAT, DOG, SKY = 1, 2, 3


def segments_of(ids, categories, crowds=()):
    return measure_segments(ids, category_ids=categories, crowd_ids=frozenset(crowds))


def count(gt_ids, gt_categories, predicted_ids, predicted_categories, *, crowds=()):
    gt, predicted = segments_of(gt_ids, gt_categories, crowds), segments_of(predicted_ids, predicted_categories)
    runs = {"gt_runs": find_runs(gt_ids, gt), "predicted_runs": find_runs(predicted_ids, predicted)}
    return count_matches(**runs, gt=gt, predicted=predicted)


def rows(counts):
    """category_id → (tp, fp, fn, iou_sum)"""
    columns = (counts.category_ids, counts.tp, counts.fp, counts.fn, counts.iou_sum)
    return {category_id: tuple(values) for category_id, *values in zip(*(c.tolist() for c in columns), strict=True)}


ONE_CAT = {1: CAT}


@pytest.mark.parametrize(
    ("gt", "gt_categories", "predicted", "predicted_categories", "expected"),
    [
        ("aaa", ONE_CAT, "aaa", {1: DOG}, {CAT: (0, 0, 1, 0.0), DOG: (0, 1, 0, 0.0)}),
        ("aaaa", ONE_CAT, "aa..", ONE_CAT, {CAT: (0, 1, 1, 0.0)}),  # an IoU of just a half is no match
        ("aaaa", ONE_CAT, "aaa.", ONE_CAT, {CAT: (1, 0, 0, 0.75)}),
        ("aa....", ONE_CAT, "aaaaaa", ONE_CAT, {CAT: (1, 0, 0, 1.0)}),  # void leaves the union
        ("bb..", {2: SKY}, "..aa", ONE_CAT, {CAT: (0, 0, 0, 0.0), SKY: (0, 0, 1, 0.0)}),  # mostly on void: forgiven
        ("bb..", {2: SKY}, ".aaa", ONE_CAT, {CAT: (0, 0, 0, 0.0), SKY: (0, 0, 1, 0.0)}),
        ("bb..", {2: SKY}, "aaaa", ONE_CAT, {CAT: (0, 1, 0, 0.0), SKY: (0, 0, 1, 0.0)}),
        ("...", {}, "...", {}, {}),
        ("aab", {1: CAT, 2: SKY}, "...", {}, {CAT: (0, 0, 1, 0.0), SKY: (0, 0, 1, 0.0)}),
    ],
)
def test_matches_and_misses_of_maps_drawn_as_text(gt, gt_categories, predicted, predicted_categories, expected):
    assert rows(count(draw_ids(gt), gt_categories, draw_ids(predicted), predicted_categories)) == expected


@pytest.mark.parametrize(
    ("predicted", "categories", "expected"),
    [
        ("....", {}, {CAT: (0, 0, 0, 0.0)}),
        ("bb..", {2: CAT}, {CAT: (0, 0, 0, 0.0)}),
        ("bb..", {2: DOG}, {CAT: (0, 0, 0, 0.0), DOG: (0, 1, 0, 0.0)}),
    ],
)
def test_a_crowd_is_never_missed_and_forgives_its_own_category_only(predicted, categories, expected):
    assert rows(count(draw_ids("aaaa"), ONE_CAT, draw_ids(predicted), categories, crowds=[1])) == expected


def test_a_perfect_map_has_a_quality_of_one_and_a_wrong_one_of_zero():
    ids, categories = draw_ids("aab aab ccc"), {1: CAT, 2: DOG, 3: SKY}
    of_class = class_quality(count(ids, categories, ids, categories))
    assert all((of_class[c].pq, of_class[c].sq, of_class[c].rq) == (1, 1, 1) for c in (CAT, DOG, SKY))
    assert class_quality(count(ids, categories, ids, dict.fromkeys(categories, DOG)))[CAT].pq == 0


def test_a_group_without_a_category_has_no_quality_and_no_error():
    ids = draw_ids("aaa")
    quality = group_quality(class_quality(count(ids, {1: SKY}, ids, {1: SKY})), [CAT, DOG])
    assert quality.n_categories == 0
    assert all(math.isnan(value) for value in (quality.pq, quality.sq, quality.rq))


def test_no_image_counts_nothing():
    assert class_quality(total_counts([])) == {}


def test_categories_that_do_not_occur_leave_the_mean():
    ids = draw_ids("aaab")
    quality = group_quality(class_quality(count(ids, {1: CAT, 2: SKY}, ids, {1: CAT, 2: SKY})), [CAT, DOG, SKY])
    assert (quality.pq, quality.n_categories) == (1.0, 2)


def test_sizes_are_those_of_the_true_segment_or_of_the_prediction_without_one():
    ids = np.zeros((100, 100), dtype=np.int32)
    ids[:31, :33], ids[40:72, :32], ids[:, 60:] = 1, 2, 3  # 1023, 1024 and 4000 px
    predicted = np.zeros_like(ids)
    predicted[:31, :33], predicted[80:90, :10] = 1, 2
    gt = segments_of(ids, {1: CAT, 2: CAT, 3: SKY})
    found = segments_of(predicted, {1: CAT, 2: DOG})
    matches = match_segments(
        gt_runs=find_runs(ids, gt), gt=[gt], predicted_runs=find_runs(predicted, found), predicted=[found]
    )
    found = {size: rows(*matches.of_size(size, [CAT, DOG]).counts()) for size in SIZES}
    assert found == {"small": {CAT: (1, 0, 0, 1.0)}, "medium": {CAT: (0, 0, 1, 0.0)}, "large": {}}
