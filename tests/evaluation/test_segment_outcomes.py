"""Why segments match or do not, on maps drawn as text."""

from __future__ import annotations

import numpy as np

from antvisionps.evaluation.panoptic_quality import count_matches
from antvisionps.evaluation.segment_outcomes import Outcome, best_gt_segments, explain_segments
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import measure_segments
from antvisionps.predictions.instances import ImageInstances

CAT, DOG, SKY = 1, 2, 3
CATEGORIES = CategorySet.from_json(
    [{"id": key, "name": str(key), "isthing": key != SKY} for key in (CAT, DOG, SKY)], where="test"
)


def draw(picture):
    """Letters are segments (a = 1, b = 2 …), a dot is void."""
    return np.array([[".abcdefgh".index(pixel) for pixel in line] for line in picture.split()])


def maps(true, gt_categories, predicted, predicted_categories, crowds=()):
    gt_ids, predicted_ids = draw(true), draw(predicted)
    return {
        "gt_ids": gt_ids,
        "true": measure_segments(gt_ids, category_ids=gt_categories, crowd_ids=frozenset(crowds)),
        "predicted_ids": predicted_ids,
        "predicted": measure_segments(predicted_ids, category_ids=predicted_categories),
    }


def explain(*arguments, **options):
    return explain_segments(**maps(*arguments, **options), categories=CATEGORIES)


def rows(outcomes):
    return [(outcome.outcome, outcome.partner_id, round(outcome.iou, 3)) for outcome in outcomes]


def test_a_match_names_the_other_and_leaves_void_out_of_the_union():
    outcomes = explain("aaaa..", {1: CAT}, "baaaaa", {1: CAT, 2: DOG})
    assert rows(outcomes.true) == [("matched", 1, 0.75)]
    assert rows(outcomes.predicted) == [("matched", 1, 0.75), ("alone", None, 0.0)]


def test_another_category_on_the_same_place_is_the_wrong_class_on_both_sides():
    outcomes = explain("aaaa", {1: CAT}, "aaa.", {1: DOG})
    assert rows(outcomes.true) == [("wrong_class", 1, 0.75)]
    assert rows(outcomes.predicted) == [("wrong_class", 1, 0.75)]


def test_an_iou_of_just_a_half_is_a_poor_mask_and_no_wrong_class():
    assert rows(explain("aaaa", {1: CAT}, "aa..", {1: CAT}).true) == [("poor_mask", 1, 0.5)]
    assert rows(explain("aaaa", {1: CAT}, "aa..", {1: DOG}).true) == [("alone", None, 0.0)]


def test_from_a_tenth_on_a_mask_is_poor_and_below_it_is_alone():
    assert rows(explain("aaaaaaaaaa", {1: CAT}, "a.........", {1: CAT}).predicted) == [("poor_mask", 1, 0.1)]
    assert rows(explain("aaaaaaaaaaa", {1: CAT}, "a..........", {1: CAT}).predicted) == [("alone", None, 0.0)]


def test_what_is_forgiven_is_ignored_and_a_crowd_is_nobodys_partner():
    outcomes = explain("..aaa", {1: CAT}, "bbaaa", {1: DOG, 2: CAT}, crowds=[1])
    assert rows(outcomes.true) == [("ignored", None, 0.0)]
    assert rows(outcomes.predicted) == [("alone", None, 0.0), ("ignored", None, 0.0)]


def test_images_without_segments_on_a_side_have_no_outcome_there():
    assert explain("...", {}, "...", {}).true == ()
    assert rows(explain("...", {}, "aaa", {1: CAT}).predicted) == [("ignored", None, 0.0)]
    assert rows(explain("aaa", {1: CAT}, "...", {}).true) == [("alone", None, 0.0)]


def test_confused_pixels_are_counted_by_class_with_void_last():
    confused = explain("aab.", {1: CAT, 2: SKY}, "aaab", {1: DOG, 2: SKY}).confused_px
    expected = np.zeros((4, 4), int)
    expected[0, 1], expected[2, 1], expected[3, 2] = 2, 1, 1
    assert (confused == expected).all()


def test_outcomes_repeat_the_counts_of_panoptic_quality_on_random_maps():
    rng = np.random.default_rng(7)
    for _ in range(200):
        gt_ids, predicted_ids = (
            np.repeat(np.repeat(rng.integers(0, 6, (3, 3)), 4, axis=0), 4, axis=1) for _ in range(2)
        )
        categories = {number: int(rng.integers(1, 4)) for number in range(1, 6)}
        given = {
            "gt_ids": gt_ids,
            "true": measure_segments(gt_ids, category_ids=categories, crowd_ids=frozenset({5})),
            "predicted_ids": predicted_ids,
            "predicted": measure_segments(predicted_ids, category_ids=categories),
        }
        outcomes = explain_segments(**given, categories=CATEGORIES)
        counts = count_matches(
            gt_runs=find_runs(gt_ids, given["true"]),
            true=given["true"],
            predicted_runs=find_runs(predicted_ids, given["predicted"]),
            predicted=given["predicted"],
        )
        matched = [outcome for outcome in outcomes.true if outcome.outcome is Outcome.MATCHED]
        faults = {Outcome.WRONG_CLASS, Outcome.POOR_MASK, Outcome.ALONE}
        assert len(matched) == counts.tp.sum()
        assert np.isclose(sum(outcome.iou for outcome in matched), counts.iou_sum.sum())
        assert sum(outcome.outcome in faults for outcome in outcomes.true) == counts.fn.sum()
        assert sum(outcome.outcome in faults for outcome in outcomes.predicted) == counts.fp.sum()


def test_the_nearest_true_segment_of_a_whole_mask_is_of_its_category_and_no_crowd():
    given = maps("aabb.ccd", {1: CAT, 2: DOG, 3: CAT, 4: DOG}, "........", {}, crowds=[3])
    drawn = ((CAT, "xxxx...."), (DOG, ".xxxx..."), (CAT, ".....xx."), (CAT, "........"), (DOG, ".......x"))
    masks = np.array([[[pixel == "x" for pixel in row]] for _, row in drawn])
    instances = ImageInstances(
        image_id=1,
        height=1,
        width=8,
        category_ids=np.array([category_id for category_id, _ in drawn], np.int32),
        scores=np.ones(len(drawn), np.float32),
        boxes_xywh=np.zeros((len(drawn), 4), np.float32),
        rles=encode_masks(masks),
        mask_probs=None,
    )
    best = best_gt_segments(instances, gt_ids=given["gt_ids"], true=given["true"])
    # The dog's fourth pixel lies on void, which leaves the union.
    assert best == [(0, 0.5), (1, 2 / 3), (None, 0.0), (None, 0.0), (3, 1.0)]
