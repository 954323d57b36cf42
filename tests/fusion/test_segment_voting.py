import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import map_coordinates

from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.mask_union import UnionRules, join_instances
from antvisionps.fusion.panoptic_head import fuse_image_by_head
from antvisionps.fusion.rejected import RejectReason
from antvisionps.fusion.segment_quality import QualityModel
from antvisionps.fusion.segment_voting import Acceptance, stuff_features, thing_feature_count, thing_features
from antvisionps.fusion.semantic_average import average_semantics
from antvisionps.fusion.system import FusionSettings, fuse_predictions
from antvisionps.predictions.schema import MASK_PROBS_SIZE
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set, draw_box, found

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools

CAT, DOG, SKY, SEA = 1, 2, 3, 4
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky", SEA: "sea"})
HW = HEIGHT, WIDTH = 12, 16


def predictions(seed):
    """Boxes of cats and dogs, and probabilities of all four categories on a grid of half the size."""
    rng = np.random.default_rng(seed)
    rows = [
        (rng.choice([CAT, DOG]), rng.random(), draw_box(HW, (left, top, 6, 5)))
        for left, top in zip(rng.integers(0, 10, 5), rng.integers(0, 7, 5), strict=True)
    ]
    mask_probs = rng.integers(0, 256, (5, MASK_PROBS_SIZE, MASK_PROBS_SIZE)).astype(np.uint8)
    instances = found(*sorted(rows, key=lambda row: -row[1]), mask_probs=mask_probs)
    return instances, semantics(rng.dirichlet(np.ones(4), (6, 8)).transpose(2, 0, 1))


def semantics(probs):
    category_ids, stride = [CAT, DOG, SKY, SEA], HEIGHT / probs.shape[1]
    return ImageSemantics.from_probs(1, hw=HW, input_hw=HW, stride=stride, category_ids=category_ids, probs=probs)


def ends_of(*seeds):
    both = {f"end{seed}": predictions(seed) for seed in seeds}
    return {end: pair[0] for end, pair in both.items()}, {end: pair[1] for end, pair in both.items()}


def model(features, category_ids, *, weight=1.0):
    numbers = (0.0,) * features, (1.0,) * features, (weight,) * features
    return QualityModel(**dict(zip(("means", "deviations", "weights"), numbers, strict=True)), bias=0.0,
                        bias_of_category=dict.fromkeys(category_ids, 0.5))  # fmt: skip


def settings(ends, *, least=0.0, paste_by="heuristic"):
    acceptance = Acceptance(
        paste_by=paste_by,
        things=model(thing_feature_count(len(ends)), [CAT, DOG]),
        stuff=model(2, [SKY, SEA]),
        min_probabilities=dict.fromkeys([CAT, DOG, SKY, SEA], 0.0) | (least if isinstance(least, dict) else {}),
    )
    weights = dict.fromkeys(sorted(ends), 1.0)
    rules = HeuristicRules(0.0, 0.5, 0)
    return FusionSettings("auto", rules, weights, "probabilities", None, UnionRules(weights, 0.5), acceptance)


def fuse(instances, planes, **more):
    return fuse_predictions(instances, planes, categories=CATEGORIES, settings=settings(sorted(instances), **more))


def decoded(rle):
    return coco_mask.decode({"size": list(HW), "counts": rle}).astype(bool)


def slow_logit(p, floor):
    p = min(max(p, floor), 1 - floor)
    return math.log(p / (1 - p))


def mean_on(mask, planes, category_id):
    """Of the mean of all ends' probabilities, interpolated between cell centres, over the mask's pixels."""
    places = np.argwhere(mask).T + 0.5
    values = [
        map_coordinates(plane / 255, places / of_end.stride - 0.5, order=1, mode="nearest")
        for of_end in planes.values()
        for plane in of_end.planes[of_end.category_ids == category_id]
    ]
    return np.mean(values)


@pytest.mark.parametrize("seed", range(4))
def test_features_of_things_are_those_of_their_definition(seed):
    instances, planes = ends_of(3 * seed, 3 * seed + 1, 3 * seed + 2)
    ends = list(instances)
    average = average_semantics(
        list(planes.values()), weights=[1] * 3, categories=CATEGORIES, average_of="probabilities"
    )
    joined = join_instances(instances, UnionRules(dict.fromkeys(ends, 1.0), 0.3))
    features = thing_features(joined, average, ends=ends, categories=CATEGORIES)
    assert any("+" in name for name in features)
    everything = [
        (float(score), category_id, decoded(rle))
        for image in joined.instances.values()
        for score, category_id, rle in zip(image.scores, image.category_ids, image.rles, strict=True)
    ]
    for name, image in joined.instances.items():
        for row, group in enumerate(joined.members[name]):
            assert name == "+".join(member.end for member in group)
            score_of = {member.end: float(member.source.scores[member.index]) for member in group}
            expected = [x for e in ends for x in ((slow_logit(score_of[e], 1e-3), 1) if e in score_of else (0, 0))]
            mask = decoded(image.rles[row])
            expected += [math.log(mask.sum() / (HEIGHT * WIDTH))]
            expected += [slow_logit(mean_on(mask, planes, image.category_ids[row]), 1e-2)]
            masks = [decoded(member.source.rles[member.index]) for member in group]
            ious = [(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(masks, 2)]
            expected += [sum(ious) / len(ious) if ious else 0]
            better = [
                (mask & other).sum() / (mask | other).sum()
                for score, category_id, other in everything
                if score > image.scores[row] and category_id == image.category_ids[row]
            ]
            covered = [mask & other for score, _, other in everything if score > image.scores[row]]
            expected += [max(better, default=0), np.any(covered, axis=0).sum() / mask.sum()]
            np.testing.assert_allclose(features[name].values[row], expected, rtol=2e-3, atol=2e-3)


def test_masks_of_one_score_do_not_cover_each_other():
    best, one, other = (draw_box(HW, box) for box in ((0, 0, 4, 8), (2, 0, 8, 8), (6, 0, 8, 8)))
    instances = {"a": found((CAT, 0.9, best), (DOG, 0.5, one)), "b": found((CAT, 0.5, other))}
    planes = ends_of(0)[1]
    average = average_semantics(list(planes.values()), weights=[1], categories=CATEGORIES, average_of="probabilities")
    joined = join_instances(instances, UnionRules({"a": 1.0, "b": 1.0}, 0.5))
    features = thing_features(joined, average, ends=["a", "b"], categories=CATEGORIES)
    assert {name: of_end.values[:, -1].tolist() for name, of_end in features.items()} == {"a": [0, 2 / 8], "b": [0]}


def test_without_instances_there_are_no_features():
    _, planes = ends_of(0)
    average = average_semantics(list(planes.values()), weights=[1], categories=CATEGORIES, average_of="probabilities")
    for instances, expected in (({}, {}), ({"end0": found(hw=HW)}, {"end0": (0, thing_feature_count(1))})):
        joined = join_instances(instances, UnionRules({"end0": 1.0}, 0.5))
        features = thing_features(joined, average, ends=["end0"], categories=CATEGORIES)
        assert {name: of_end.values.shape for name, of_end in features.items()} == expected


def test_stuff_is_left_out_below_its_probability_and_nothing_else_changes():
    instances, planes = ends_of(0, 1)
    whole = fuse(instances, planes)
    average = average_semantics(
        list(planes.values()), weights=[1, 1], categories=CATEGORIES, average_of="probabilities"
    )
    stuff = stuff_features(whole, average, CATEGORIES)
    of_category = {segment.category_id: segment for segment in whole.segments if segment.score is None}
    assert stuff.category_ids.tolist() == list(of_category) == [SKY, SEA]
    for (log_area, mean), segment in zip(stuff.values.tolist(), of_category.values(), strict=True):
        mask = whole.segment_ids == segment.segment_id
        assert log_area == pytest.approx(math.log(mask.sum() / mask.size))
        assert mean == pytest.approx(slow_logit(mean_on(mask, planes, segment.category_id), 1e-2), abs=2e-3)
        assert segment.probability == pytest.approx(1 / (1 + math.exp(-0.5 - log_area - mean)))

    part = fuse(instances, planes, least={SKY: of_category[SKY].probability + 1e-9, SEA: of_category[SEA].probability})
    assert [row.reason for row in part.rejected if row.category_id == SKY] == [RejectReason.IMPROBABLE]
    sky_id = of_category[SKY].segment_id
    expected = np.where(whole.segment_ids == sky_id, 0, whole.segment_ids - (whole.segment_ids > sky_id))
    np.testing.assert_array_equal(part.segment_ids, expected)
    assert (np.diff(part.runs.segment_indices) != 0).all()
    assert [s.category_id for s in part.segments] == [s.category_id for s in whole.segments if s.category_id != SKY]


def test_a_thing_enters_by_its_probability_which_is_its_score():
    instances, planes = ends_of(2)
    whole = fuse(instances, planes)
    things = [segment for segment in whole.segments if segment.score is not None]
    assert [segment.score for segment in things] == sorted((s.score for s in things), reverse=True)
    assert all(segment.probability == segment.score for segment in things)
    least = sorted(segment.score for segment in things)[0] + 1e-6
    part = fuse(instances, planes, least={CAT: least, DOG: least})
    assert len([s for s in part.segments if s.score is not None]) == len(things) - 1


by_each = pytest.mark.parametrize("paste_by", ["heuristic", "panoptic_head"])


@by_each
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_ends_changes_nothing(seed, paste_by):
    instances, planes = ends_of(seed, seed + 10, seed + 20)
    one = fuse(instances, planes, paste_by=paste_by)
    backwards = [{end: of[end] for end in reversed(of)} for of in (instances, planes)]
    other = fuse(*backwards, paste_by=paste_by)
    np.testing.assert_array_equal(one.segment_ids, other.segment_ids)
    assert one.segments == other.segments


@by_each
def test_perfect_members_give_the_perfect_map(paste_by):
    truth = np.full(HW, SKY)
    truth[6:] = SEA
    truth[2:8, 1:6], truth[4:10, 9:14] = CAT, DOG
    probs = np.stack([truth == category_id for category_id in (CAT, DOG, SKY, SEA)]).astype(float)
    certain = np.full((2, MASK_PROBS_SIZE, MASK_PROBS_SIZE), 255, np.uint8)
    end = found((CAT, 0.9, truth == CAT), (DOG, 0.6, truth == DOG), mask_probs=certain)
    fused = fuse({"a": end, "b": end}, {"a": semantics(probs), "b": semantics(probs)}, paste_by=paste_by)
    category_of = np.array([0, *(segment.category_id for segment in fused.segments)])
    np.testing.assert_array_equal(category_of[fused.segment_ids], truth)
    assert [segment.end for segment in fused.segments] == ["a+b"] * 4


def test_the_head_pastes_what_it_makes_of_the_instances_that_reach_their_least_probability():
    instances, planes = ends_of(4)
    whole = fuse(instances, planes)
    scores = [segment.score for segment in whole.segments if segment.score is not None]
    least = dict.fromkeys([CAT, DOG], sorted(scores)[len(scores) // 2])
    fused = fuse(instances, planes, paste_by="panoptic_head", least=least)

    average = average_semantics(list(planes.values()), weights=[1], categories=CATEGORIES, average_of="probabilities")
    features = thing_features(join_instances(instances, UnionRules({"end4": 1.0}, 0.5)), average, ends=["end4"],
                              categories=CATEGORIES)["end4"]  # fmt: skip
    probs = (
        model(thing_feature_count(1), [CAT, DOG])
        .probabilities(features.values, features.category_ids)
        .astype(np.float32)
    )
    alive = np.flatnonzero(probs >= least[CAT])
    assert 0 < len(alive) < len(probs)
    reached = replace(instances["end4"].take(alive.tolist()), scores=probs[alive])
    by_head = fuse_image_by_head(
        {"end4": reached}, average, categories=CATEGORIES, end_of_category=None,
        rules=HeuristicRules(0.0, 0.5, 0),
    )  # fmt: skip
    np.testing.assert_array_equal(fused.segment_ids, by_head.segment_ids)
    assert not np.array_equal(fused.segment_ids, fuse(instances, planes, least=least).segment_ids)


def test_of_one_end_the_masks_are_its_own_and_an_image_without_instances_has_its_stuff():
    instances, planes = ends_of(3)
    fused = fuse(instances, planes)
    masks = [decoded(rle) for rle in instances["end3"].rles]
    first = fused.segments[0]
    assert any(((fused.segment_ids == first.segment_id) == mask).all() for mask in masks)
    assert {segment.end for segment in fused.segments} == {"end3"}
    empty = fuse({"end3": found(hw=HW)}, planes)
    assert {segment.category_id for segment in empty.segments} <= {SKY, SEA}
