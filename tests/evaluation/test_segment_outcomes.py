"""Why segments match or do not, on maps drawn as text."""

import numpy as np
import pytest

from antvisionps.evaluation.panoptic_quality import count_matches
from antvisionps.evaluation.segment_outcomes import best_gt_segments, confused_segments, explain_segments
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import measure_segments
from tests.drawing import category_set, draw, draw_ids, found

CAT, DOG, SKY = 1, 2, 3
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky"})


def maps(gt, gt_categories, predicted, predicted_categories, crowds=()):
    gt_ids, predicted_ids = draw_ids(gt), draw_ids(predicted)
    return {
        "gt_ids": gt_ids,
        "gt": measure_segments(gt_ids, category_ids=gt_categories, crowd_ids=frozenset(crowds)),
        "predicted_ids": predicted_ids,
        "predicted": measure_segments(predicted_ids, category_ids=predicted_categories),
    }


def explain(*arguments):
    return explain_segments(**maps(*arguments), categories=CATEGORIES)


def rows(outcomes):
    return [(outcome.outcome, outcome.partner_id, round(outcome.iou, 3)) for outcome in outcomes]


MISSED, BACKGROUND, IGNORED = (("missed", None, 0.0), ("background", None, 0.0), ("ignored", None, 0.0))


@pytest.mark.parametrize(
    ("arguments", "gt", "predicted"),
    [
        # Void leaves the union.
        (
            ("aaaa..", {1: CAT}, "baaaaa", {1: CAT, 2: DOG}),
            [("matched", 1, 0.75)],
            [("matched", 1, 0.75), ("both", 1, 0.25)],
        ),
        (("aaaa", {1: CAT}, "aaa.", {1: DOG}), [("class", 1, 0.75)], [("class", 1, 0.75)]),
        # An IoU of just a half is a poor mask and no wrong class.
        (("aaaa", {1: CAT}, "aa..", {1: CAT}), [("location", 1, 0.5)], [("location", 1, 0.5)]),
        (("aaaa", {1: CAT}, "aa..", {1: DOG}), [("both", 1, 0.5)], [("both", 1, 0.5)]),
        (("aaaaaaaaaa", {1: CAT}, "a.........", {1: CAT}), [("location", 1, 0.1)], [("location", 1, 0.1)]),
        (("aaaaaaaaaaa", {1: CAT}, "a..........", {1: CAT}), [MISSED], [BACKGROUND]),
        # Of equal overlaps the first; a rest on what is matched is about the match.
        (("aabb", {1: CAT, 2: CAT}, "aaaa", {1: CAT}), [("merged", 1, 0.5), ("merged", 1, 0.5)], [("merged", 1, 0.5)]),
        (("aaaa", {1: CAT}, "aabb", {1: CAT, 2: CAT}), [("split", 1, 0.5)], [("split", 1, 0.5), ("split", 1, 0.5)]),
        (
            ("aaaa", {1: CAT}, "aaab", {1: CAT, 2: CAT}),
            [("matched", 1, 0.75)],
            [("matched", 1, 0.75), ("duplicate", 1, 0.25)],
        ),
        # What is forgiven is ignored, and a crowd is nobody's partner.
        (("..aaa", {1: CAT}, "bbaaa", {1: DOG, 2: CAT}, [1]), [IGNORED], [BACKGROUND, IGNORED]),
        (("...", {}, "...", {}), [], []),
        (("...", {}, "aaa", {1: CAT}), [], [IGNORED]),
        (("aaa", {1: CAT}, "...", {}), [MISSED], []),
    ],
)
def test_each_segment_has_an_outcome_a_partner_and_an_iou(arguments, gt, predicted):
    outcomes = explain(*arguments)
    assert (rows(outcomes.gt), rows(outcomes.predicted)) == (gt, predicted)


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
            "gt": measure_segments(gt_ids, category_ids=categories, crowd_ids=frozenset({5})),
            "predicted_ids": predicted_ids,
            "predicted": measure_segments(predicted_ids, category_ids=categories),
        }
        outcomes = explain_segments(**given, categories=CATEGORIES)
        counts = count_matches(
            gt_runs=find_runs(gt_ids, given["gt"]),
            gt=given["gt"],
            predicted_runs=find_runs(predicted_ids, given["predicted"]),
            predicted=given["predicted"],
        )
        matched = [outcome for outcome in outcomes.gt if outcome.outcome == "matched"]
        assert len(matched) == counts.tp.sum()
        assert np.isclose(sum(outcome.iou for outcome in matched), counts.iou_sum.sum())
        assert sum(outcome.outcome not in ("matched", "ignored") for outcome in outcomes.gt) == counts.fn.sum()
        assert sum(outcome.outcome not in ("matched", "ignored") for outcome in outcomes.predicted) == counts.fp.sum()
        confused = confused_segments(given["gt"], given["predicted"], outcomes, CATEGORIES)
        of_class = [CATEGORIES.class_index(category_id) for category_id in counts.category_ids.tolist()]
        assert (confused.sum(axis=1)[of_class] == counts.tp + counts.fn).all()
        assert (confused.diagonal()[of_class] == counts.tp).all()
        assert confused[-1].sum() <= counts.fp.sum()


def test_the_nearest_true_segment_of_a_whole_mask_is_of_its_category_and_no_crowd():
    given = maps("aabb.ccd", {1: CAT, 2: DOG, 3: CAT, 4: DOG}, "........", {}, crowds=[3])
    drawn = ((CAT, "####...."), (DOG, ".####..."), (CAT, ".....##."), (CAT, "........"), (DOG, ".......#"))
    masks = ((category_id, 1, draw(row)) for category_id, row in drawn)
    instances = found(*masks)
    best = best_gt_segments(instances, gt_ids=given["gt_ids"], gt=given["gt"])
    # The dog's fourth pixel lies on void, which leaves the union.
    assert best == [(0, 0.5), (1, 2 / 3), (None, 0.0), (None, 0.0), (3, 1.0)]
