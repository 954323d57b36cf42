import numpy as np
import panopticapi.combine_semantic_and_instance_predictions as oracle
import pytest
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as coco_mask

from antvisionps.fusion.heuristic import PRESETS, Candidate, HeuristicRules, add_stuff, fuse_image
from antvisionps.fusion.nms import keep_best_boxes
from antvisionps.fusion.rejected import RejectReason
from antvisionps.predictions.instances import ImageInstances
from tests.drawing import category_set, draw, found

CAT, DOG, SKY, SEA = 10, 20, 5, 15
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky", SEA: "sea"})
LETTERS = {"c": 0, "d": 1, "s": 2, "w": 3}


def paint(picture):
    """A class map of letters: cat, dog, sky, water."""
    return np.array([[LETTERS[pixel] for pixel in line] for line in picture.split()], dtype=np.uint8)


def fuse(instances, class_map, **changes):
    if isinstance(instances, ImageInstances):
        instances = {"ups": instances}
    settings = {"end_of_category": None, "min_score": 0.5, "max_overlap_frac": 0.5, "min_stuff_area_px": 1}
    settings |= changes
    place = {name: settings.pop(name) for name in ("end_of_category", "confidence") if name in settings}
    rules = HeuristicRules(**settings)
    return fuse_image(instances, class_map, categories=CATEGORIES, semantic_end="ups", rules=rules, **place)


def described(fused):
    return [(segment.segment_id, segment.category_id, segment.area_px) for segment in fused.segments]


def reasons(fused):
    return [(candidate.category_id, candidate.reason) for candidate in fused.rejected]


SKY_ONLY = paint("ssss ssss ssss")
LEFT = draw("##.. ##.. ....")
MIDDLE = draw(".##. .##. ....")


def test_instances_come_first_and_stuff_fills_what_is_left():
    fused = fuse(found((CAT, 0.9, LEFT)), SKY_ONLY)
    np.testing.assert_array_equal(fused.segment_ids, [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2]])
    assert described(fused) == [(1, CAT, 4), (2, SKY, 8)]
    assert fused.segments[0].bbox_xywh == (0, 0, 2, 2)
    assert fused.segments[0].score == pytest.approx(0.9)
    assert (fused.segments[1].score, fused.segments[1].end) == (None, "ups")
    assert not fused.rejected


def test_of_equal_scores_the_first_ends_is_on_top():
    ends = {"htc": found((DOG, 0.75, MIDDLE)), "ups": found((CAT, 0.75, LEFT))}
    first = fuse(ends, SKY_ONLY).segments[0]
    assert (first.category_id, first.end) == (DOG, "htc")


@pytest.mark.parametrize(("max_overlap_frac", "lives"), [(0.5, True), (0.49, False)])
def test_an_overlap_of_just_the_maximum_lives(max_overlap_frac, lives):
    instances = found((CAT, 0.9, LEFT), (DOG, 0.8, MIDDLE))
    fused = fuse(instances, SKY_ONLY, max_overlap_frac=max_overlap_frac)
    assert (DOG in [segment.category_id for segment in fused.segments]) is lives
    if not lives:
        (rejected,) = fused.rejected
        assert (rejected.reason, rejected.area_px, rejected.free_px) == (RejectReason.OVERLAP_FRAC, 4, 2)


def test_no_threshold_lets_an_empty_segment_in():
    covered = found((CAT, 0.9, np.ones((3, 4))), (DOG, 0.8, LEFT), (CAT, 0.7, LEFT & ~LEFT))
    fused = fuse(covered, SKY_ONLY, max_overlap_frac=1.0, min_stuff_area_px=0)
    assert described(fused) == [(1, CAT, 12)]
    assert reasons(fused) == [(DOG, RejectReason.EMPTY), (CAT, RejectReason.EMPTY), (SKY, RejectReason.EMPTY)]


@pytest.mark.parametrize(("min_stuff_area_px", "lives"), [(4, True), (5, False)])
def test_stuff_of_just_the_minimum_area_lives_and_smaller_stuff_becomes_void(min_stuff_area_px, lives):
    fused = fuse(found(), paint("ssss ssss wwww"), min_stuff_area_px=min_stuff_area_px)
    assert described(fused) == [(1, SKY, 8), (2, SEA, 4)][: 1 + lives]
    assert (fused.segment_ids[2] == (2 if lives else 0)).all()
    assert reasons(fused) == ([] if lives else [(SEA, RejectReason.AREA)])


def test_each_categorys_instances_come_from_the_end_it_is_routed_to():
    ends = {
        "ups": found((CAT, 0.9, LEFT), (DOG, 0.3, MIDDLE)),
        "htc": found((CAT, 0.8, LEFT), (DOG, 0.7, draw("...# ...# ...#"))),
    }
    fused = fuse(ends, SKY_ONLY, end_of_category={CAT: "ups", DOG: "htc"})
    assert [(s.category_id, s.end) for s in fused.segments] == [(CAT, "ups"), (DOG, "htc"), (SKY, "ups")]
    assert [(f.category_id, f.end, f.reason) for f in fused.rejected] == [
        (DOG, "ups", RejectReason.ROUTED_AWAY),
        (CAT, "htc", RejectReason.ROUTED_AWAY),
    ]


def combine_with_panopticapi(folder, instances, class_map, *, min_score, max_overlap_frac, min_stuff_area_px):
    """(segment ids, their categories in order) of panopticapi's own loop over one image."""
    height, width = class_map.shape
    kept = [
        {
            "category_id": int(category_id),
            "score": float(score),
            "segmentation": {"size": [height, width], "counts": rle},
        }
        for category_id, score, rle in zip(instances.category_ids, instances.scores, instances.rles, strict=True)
        if score >= np.float32(min_score)
    ]
    stuff = [
        {"category_id": c.category_id, "segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))}
        for c in CATEGORIES.stuff
        if (mask := class_map == CATEGORIES.class_index(c.category_id)).any()
    ]
    (annotation,) = oracle.combine_to_panoptic_single_core(
        0,
        [1],
        {1: {"height": height, "width": width, "file_name": "1.jpg"}},
        {1: sorted(kept, key=lambda instance: -instance["score"])},
        {1: stuff},
        str(folder),
        max_overlap_frac,
        min_stuff_area_px,
        {row["id"]: row for row in CATEGORIES.to_json()},
    )
    with Image.open(folder / "1.png") as png:
        ids = rgb2id(np.array(png))
    return ids, [(segment["id"], segment["category_id"]) for segment in annotation["segments_info"]]


KINDS = (*("blobs",) * 5, "equal scores", "empty masks", "full occlusion", "all void", "no stuff left")


def random_scene(rng, kind):
    """Instances and a class map of up to 40 pixels a side; the kind says what is special."""
    hw = tuple(rng.integers(4, 40, 2).tolist())
    rows = []
    for _ in range(rng.integers(0, 12)):
        mask = np.zeros(hw, dtype=bool)
        y0, x0 = rng.integers(0, hw[0]), rng.integers(0, hw[1])
        mask[y0 : y0 + rng.integers(0, 15), x0 : x0 + rng.integers(0, 15)] = True
        mask &= rng.random(hw) < rng.choice([0.3, 1.0])
        if kind == "empty masks" and rng.random() < 0.7:
            mask[:] = False
        if kind == "full occlusion" and rows and rng.random() < 0.6:  # the same as, or part of, another
            mask = rows[rng.integers(len(rows))][2] & (rng.random(hw) < rng.choice([0.5, 1.0]))
        if kind == "no stuff left" and rng.random() < 0.4:
            mask[:] = True
        score = 0.7 if kind == "equal scores" else rng.choice([0.2, 0.5, 0.7, 0.7, rng.random()])
        rows.append((int(rng.choice([CAT, DOG])), score, mask))
    classes = 2 if kind == "all void" else 4  # thing classes alone: void where no instance is
    coarse = rng.integers(0, classes, (4, 4)).astype(np.uint8)
    class_map = coarse.repeat(10, axis=0).repeat(10, axis=1)[: hw[0], : hw[1]]
    return found(*rows, hw=hw), class_map


def assert_panopticapis_map(folder, instances, class_map, rules):
    """The map by these rules, which is panopticapi's up to the numbering."""
    thresholds = {name: getattr(rules, name) for name in ("min_score", "max_overlap_frac", "min_stuff_area_px")}
    expected_ids, expected = combine_with_panopticapi(folder, instances, class_map, **thresholds)
    fused = fuse(instances, class_map, **thresholds)
    assert [segment.category_id for segment in fused.segments] == [category_id for _, category_id in expected]
    renumbered = np.zeros_like(expected_ids)
    for position, (segment_id, _) in enumerate(expected, start=1):
        renumbered[expected_ids == segment_id] = position
    np.testing.assert_array_equal(fused.segment_ids, renumbered)
    assert (np.diff(fused.runs.segment_indices) != 0).all()
    for segment in fused.segments:
        mask = fused.segment_ids == segment.segment_id
        assert segment.area_px == mask.sum() > 0
        as_coco = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert list(segment.bbox_xywh) == coco_mask.toBbox(as_coco).tolist()
    listed = [segment for segment in fused.segments if segment.score is not None]
    assert len(listed) + sum(rejected.score is not None for rejected in fused.rejected) == len(instances)
    return fused


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_the_map_is_panopticapis_up_to_the_numbering(tmp_path, capsys):
    rng = np.random.default_rng(7)
    pasted, rejected = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for index in range(60 * len(KINDS)):
        kind = KINDS[index % len(KINDS)]
        instances, class_map = random_scene(rng, kind)
        rules = HeuristicRules(
            min_score=float(rng.choice([0.0, 0.5, 0.7])),
            max_overlap_frac=float(rng.choice([0.0, 0.25, 0.5, 0.8])),
            min_stuff_area_px=int(rng.choice([1, 20, 60])),
        )
        fused = assert_panopticapis_map(tmp_path, instances, class_map, rules)
        pasted[kind] += len(fused.segments)
        rejected[kind] += len(fused.rejected)
    assert min(*pasted.values(), *rejected.values()) > 50


def test_presets_have_the_thresholds_of_their_publishers():
    assert {
        # combine_semantic_and_instance_predictions.py: --confidence_thr, --overlap_thr, --stuff_area_limit
        "panopticapi": HeuristicRules(0.5, 0.5, 64 * 64),
        # config/defaults.py: MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH, OVERLAP_THRESH, STUFF_AREA_LIMIT
        "detectron2": HeuristicRules(0.5, 0.5, 4096),
        # configs/panoptic_fpn: test_cfg.rcnn's score_thr and class-agnostic NMS, test_cfg.panoptic
        "mmdet": HeuristicRules(0.6, 0.5, 4096, max_nms_iou=0.5),
        # panoptic_score_thresh and panoptic_stuff_area_limit of config.test; nms_thresh; MaskRemoval's fraction
        "upsnet": HeuristicRules(0.6, 0.3, 4096, max_nms_iou=0.5),
    } == PRESETS


def test_nms_keeps_the_better_of_two_boxes_of_any_categories():
    boxes_xywh = np.array([(0, 0, 2, 2), (0, 0, 2, 2.5)], np.float32)
    instances = found((CAT, 0.9, LEFT), (DOG, 0.8, MIDDLE), boxes_xywh=boxes_xywh)
    assert reasons(fuse(instances, SKY_ONLY, max_nms_iou=0.79)) == [(DOG, RejectReason.NMS)]
    assert reasons(fuse(instances, SKY_ONLY, max_nms_iou=0.81)) == []


def test_nms_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    for _ in range(50):
        boxes = np.concatenate([rng.uniform(0, 20, (30, 2)), rng.uniform(1, 15, (30, 2))], axis=1)
        xyxy = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
        kept = torchvision.ops.nms(xyxy, torch.arange(30, 0, -1, dtype=torch.float64), 0.5).numpy()
        np.testing.assert_array_equal(np.flatnonzero(keep_best_boxes(boxes, max_iou=0.5)), np.sort(kept))


def test_a_category_may_have_a_minimum_score_of_its_own():
    instances = found((CAT, 0.6, LEFT), (DOG, 0.4, MIDDLE))
    fused = fuse(instances, SKY_ONLY, min_scores={CAT: 0.7, DOG: 0.3})
    assert [segment.category_id for segment in fused.segments] == [DOG, SKY]
    assert reasons(fused) == [(CAT, RejectReason.LOW_SCORE)]


def test_a_doubtful_part_of_stuff_becomes_void_and_the_rest_stays():
    confidence = np.array([[0.9] * 2 + [0.5] * 3], np.float32).repeat(2, axis=0)
    fused = fuse(found(hw=(2, 5)), paint("sswss sswss"), confidence=confidence, min_stuff_confidence=0.6)
    np.testing.assert_array_equal(fused.segment_ids, [[1, 1, 0, 0, 0]] * 2)
    assert reasons(fused) == [(SEA, RejectReason.LOW_CONFIDENCE)]
    with pytest.raises(ValueError, match="needs the confidence"):
        fuse(found(), SKY_ONLY, min_stuff_confidence=0.5)


def test_a_category_that_lies_on_another_is_pasted_over_it():
    rows = (CAT, 0.9, LEFT), (DOG, 0.8, MIDDLE)
    fused = fuse(found(*rows), SKY_ONLY, max_overlap_frac=0.4, on_top=frozenset({(DOG, CAT)}))
    np.testing.assert_array_equal(fused.segment_ids[:2], [[1, 2, 2, 3]] * 2)
    assert described(fused) == [(1, CAT, 2), (2, DOG, 4), (3, SKY, 6)]


def test_what_is_buried_is_no_segment_and_leaves_no_gap_in_the_ids():
    rows = (CAT, 0.9, MIDDLE), (DOG, 0.8, draw("#### #### ...."))
    fused = fuse(found(*rows), SKY_ONLY, on_top=frozenset({(DOG, CAT)}))
    assert described(fused) == [(1, DOG, 8), (2, SKY, 4)]
    assert reasons(fused) == [(CAT, RejectReason.EMPTY)]


@pytest.mark.parametrize("score", [0.3, 0.35, 0.7, 0.9])
def test_a_score_of_just_the_minimum_lives(score):
    assert fuse(found((CAT, score, LEFT)), SKY_ONLY, min_score=score).segments[0].category_id == CAT


def test_more_segments_than_16_bits_number():
    ids = np.zeros((200, 400), dtype=np.int32)
    ids.ravel()[::2] = np.arange(1, 40_001)
    sky = np.full(ids.shape, CATEGORIES.class_index(SKY), dtype=np.uint8)
    one = Candidate(CAT, 0.9, 1, "ups", found((CAT, 0.9, LEFT)), 0)
    _, segments, _ = add_stuff(
        ids, [one] * 40_000, sky, sky, {}, categories=CATEGORIES, semantic_end="ups", min_stuff_area_px=0
    )
    assert [segment.segment_id for segment in segments] == list(range(1, 40_002))
    assert (segments[-1].category_id, segments[-1].area_px) == (SKY, 40_000)
