import json
import math

import numpy as np
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.fusion.calibration import (
    choose_min_scores,
    choose_on_top,
    count_visible,
    read_calibration,
    try_stuff,
    try_thresholds,
    try_weights,
)
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.system import FusionSettings
from tests.drawing import category_set, draw_box, found

CAT, DOG, SKY = 10, 20, 5
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky"})


def settings(*ends, method="heuristic"):
    return FusionSettings(method, HeuristicRules(0.5, 0.5, 100), dict.fromkeys(ends, 1.0), "probabilities", None, None)


def test_weights_are_tried_for_every_mixture_of_two_ends_and_for_one_end_none():
    tried = [trial.weight_of_end for trial in try_weights(settings("a", "b"))]
    assert tried == [{"a": float(share), "b": float(5 - share)} for share in (1, 2, 3, 4)]
    assert list(try_weights(settings("a"))) == []


def test_thresholds_and_stuff_are_tried_from_where_the_settings_are():
    assert {trial.rules.min_stuff_area_px for trial in try_thresholds(settings("a"))} == {100}
    assert {trial.rules.min_stuff_area_px for trial in try_stuff(settings("a"))} == {25, 50, 100, 200}
    assert {trial.rules.min_stuff_confidence for trial in try_stuff(settings("a", method="panoptic_head"))} == {0.0}


PQ_OF_CLASS = {0.3: {CAT: 0.6, DOG: 0.5}, 0.5: {CAT: 0.4, DOG: 0.5}, 0.7: {CAT: 0.5, DOG: 0.2}}


def test_a_class_gets_the_threshold_of_its_best_quality_unless_it_has_few_instances():
    chosen = choose_min_scores(PQ_OF_CLASS, n_gt={CAT: 12, DOG: 12}, min_instances=10, default=0.5)
    assert chosen == {CAT: 0.3}  # a dog does no better anywhere
    assert choose_min_scores(PQ_OF_CLASS, n_gt={CAT: 9}, min_instances=10, default=0.5) == {}


def test_the_category_that_is_seen_more_often_lies_on_top():
    wins = np.array([[0, 7], [3, 0]])
    assert choose_on_top(wins, [CAT, DOG], min_overlaps=10) == {(CAT, DOG)}
    assert choose_on_top(wins, [CAT, DOG], min_overlaps=11) == frozenset()
    assert choose_on_top(np.array([[0, 5], [5, 0]]), [CAT, DOG], min_overlaps=1) == frozenset()


def boxes(*rows):
    return found(*((category_id, score, draw_box((6, 8), box)) for category_id, score, box in rows))


@pytest.mark.parametrize(("shown", "expected"), [(DOG, [[0, 0], [1, 0]]), (CAT, [[0, 1], [0, 0]]), (SKY, [[0, 0]] * 2)])
def test_an_overlap_counts_for_the_category_that_the_truth_shows_there(shown, expected):
    truth = np.full((6, 8), CAT)
    truth[0:4, 2:4] = shown
    instances = {"a": boxes((CAT, 0.9, (0, 0, 4, 6)), (DOG, 0.8, (2, 0, 4, 4)), (DOG, 0.3, (0, 0, 2, 2)))}
    counted = count_visible(instances, truth, categories=CATEGORIES, settings=settings("a"))
    np.testing.assert_array_equal(counted, expected)


def test_neighbours_and_instances_of_one_category_have_no_order():
    instances = {"a": boxes((CAT, 0.9, (0, 0, 4, 6)), (CAT, 0.8, (2, 0, 4, 4)), (DOG, 0.8, (6, 0, 2, 4)))}
    counted = count_visible(instances, np.full((6, 8), CAT), categories=CATEGORIES, settings=settings("a"))
    assert not counted.any()


FITTED = {
    "min_score": 0.4,
    "min_scores": {str(CAT): 0.2},
    "max_overlap_frac": 0.3,
    "min_stuff_area_px": 50,
    "min_stuff_confidence": 0.0,
    "on_top": [[DOG, CAT]],
    "learned_on_top": [[DOG, CAT]],
    "semantic_weights": {"a": 2.0, "b": 0.5},
    "heldout_pq": {"plain": 0.1, "cross_validated": None},
}


def write_and_read(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_calibration(path, categories=CATEGORIES, ends=["a", "b"])


def test_a_calibration_survives_json(tmp_path):
    assert write_and_read(tmp_path / "a.json", FITTED).model_dump(mode="json") == FITTED


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"min_score": math.nan}, "min_score: .*, got nan"),
        ({"min_score": -0.1}, "min_score: .*greater than or equal to 0, got -0.1"),
        ({"min_score": "0.5"}, "min_score: .*number, got '0.5'"),
        ({"min_score": None}, "min_score: .*got None"),
        ({"min_scores": {"10": 1.5}}, "min_scores.10: .*less than or equal to 1, got 1.5"),
        ({"min_scores": {"cat": 0.5}}, "min_scores.cat"),
        ({"min_scores": {"5": 0.5}}, "category 5 is no thing of this data set"),
        ({"min_scores": [0.5]}, "min_scores: "),
        ({"max_overlap_frac": -1}, "max_overlap_frac: .*got -1"),
        ({"max_overlap_frac": 1e400}, "max_overlap_frac: .*got inf"),
        ({"min_stuff_area_px": -1}, "min_stuff_area_px: .*got -1"),
        ({"min_stuff_area_px": 2**31}, "min_stuff_area_px: .*less than 2147483648"),
        ({"min_stuff_area_px": 0.5}, "min_stuff_area_px: .*integer, got 0.5"),
        ({"min_stuff_confidence": 3e38}, "min_stuff_confidence: "),
        ({"on_top": [[CAT, 99]]}, "category 99 is no thing"),
        ({"on_top": [[CAT]]}, "on_top.0.1: Field required"),
        ({"on_top": [[CAT, DOG], [DOG, CAT]]}, "on_top has category 10 both above and below 20"),
        ({"learned_on_top": [[CAT, CAT]]}, "learned_on_top has category 10 both above and below 10"),
        ({"semantic_weights": {"a": -1.0, "b": 1.0}}, "semantic_weights.a: .*got -1.0"),
        ({"semantic_weights": {"a": 1e-300, "b": 1e-300}}, "semantic_weights.a: expected 0, or a weight of at least"),
        ({"semantic_weights": {"a": 0.0, "b": 0.0}}, "semantic_weights are all zero"),
        ({"semantic_weights": {"a": 1.0}}, r"fitted for other ends, \['a'\]"),
        ({"semantic_weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "fitted for other ends"),
        ({"heldout_pq": {"plain": 63.0}}, "heldout_pq.plain: .*got 63.0"),
        ({"heldout_pq": {"best": 0.5}}, "heldout_pq.best"),
        ({"speed": 1}, "speed: "),
    ],
)
def test_a_calibration_with_a_value_that_cannot_be_is_refused(tmp_path, change, place):
    with pytest.raises(CacheError, match=rf"^{tmp_path}/a\.json: [^\n]*{place}[^\n]*; run `dvc repro calibrate`$"):
        write_and_read(tmp_path / "a.json", FITTED | change)


@pytest.mark.parametrize("text", ["{}", "null", "[]", "3", '"', "", "[" * 100_000, json.dumps(FITTED)[:-1]])
def test_what_is_no_calibration_is_refused(tmp_path, text):
    with pytest.raises(CacheError, match="calibration"):
        write_and_read(tmp_path / "a.json", text)


def test_a_key_of_a_calibration_stands_once(tmp_path):
    text = json.dumps(FITTED).replace('{"min_score"', '{"min_score": 0.9, "min_score"')
    with pytest.raises(CacheError, match="key 'min_score' stands twice"):
        write_and_read(tmp_path / "a.json", text)
