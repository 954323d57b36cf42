import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.panoptic_head import UNKNOWN, SemanticLogits, fuse_image_by_head, panoptic_argmax
from antvisionps.fusion.rejected import RejectReason
from antvisionps.fusion.segment_quality import logit
from antvisionps.fusion.semantic_average import FLOOR, average_semantics
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set, draw_box, found

CAT, DOG, SKY, SEA = 1, 2, 3, 4
THINGS = 2
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky", SEA: "sea"})
RULES = HeuristicRules(min_score=0.6, max_overlap_frac=0.3, min_stuff_area_px=1, max_nms_iou=0.5)


def slow_logits(semantic_logits, class_indices, boxes, instance_classes, mask_logits, y, x):
    """All channels at one pixel, by the definition, in their order: (stuff class, 256 + instance or UNKNOWN; logit)."""
    of_class = {int(c): float(plane[y, x]) for c, plane in zip(class_indices, semantic_logits, strict=True)}
    channels = [(c, of_class.get(c, 0.0)) for c in sorted({THINGS, *(c for c in of_class if c >= THINGS)})]
    claimed = 0.0
    for n, ((left, top, width, height), c) in enumerate(zip(boxes, instance_classes, strict=True)):
        x0, y0, x1, y1 = math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height)
        if not (x0 <= x < x1 and y0 <= y < y1):
            continue
        grid = mask_logits[n]
        at_y = (y - y0 + 0.5) * grid.shape[0] / (y1 - y0) - 0.5
        at_x = (x - x0 + 0.5) * grid.shape[1] / (x1 - x0) - 0.5
        thing = of_class.get(int(c), 0.0)
        mask = map_coordinates(grid, [[at_y], [at_x]], order=1, mode="nearest")
        channels.append((256 + n, thing + mask[0]))
        claimed = max(claimed, thing)
    things = [logit for c, logit in of_class.items() if c < THINGS]
    return [*channels, (UNKNOWN, max([0.0, *things]) - claimed)]


def random_channels(rng):
    height, width = rng.integers(8, 24, 2).tolist()
    class_indices = np.sort(rng.choice(4, rng.integers(1, 5), replace=False))
    semantic_logits = rng.uniform(0, 6, (len(class_indices), height, width)).astype(np.float32)
    count = int(rng.integers(0, 5))
    corners = rng.uniform(-3, (width, height), (count, 2))
    boxes = np.concatenate([corners, rng.uniform(2.5, 14, (count, 2))], axis=1)
    boxes = boxes[(boxes[:, :2] + boxes[:, 2:] > 1).all(axis=1)]
    mask_logits = rng.uniform(-6, 6, (len(boxes), 5, 7)).astype(np.float32)
    return semantic_logits, class_indices, boxes, rng.integers(0, THINGS, len(boxes)), mask_logits


def test_each_pixel_goes_to_the_largest_of_all_channels():
    rng = np.random.default_rng(0)
    for _ in range(8):
        semantic_logits, class_indices, boxes, classes, mask_logits = given = random_channels(rng)
        of_instances = {"boxes_xywh": boxes, "instance_classes": classes, "mask_logits": mask_logits}
        channel = panoptic_argmax(SemanticLogits.of(semantic_logits, class_indices, things=THINGS), **of_instances)
        for y, x in np.ndindex(channel.shape):
            channels = slow_logits(*given, y, x)
            best = max(logit for _, logit in channels)
            near = [channel for channel, logit in channels if logit > best - 1e-3]
            assert channel[y, x] in near


def boxes(*rows):
    """Instances of (category_id, score, xywh): boxes whose masks fill them."""
    masks = ((category_id, score, draw_box((6, 8), box)) for category_id, score, box in rows)
    return found(*masks, hw=(6, 8), mask_probs=np.full((len(rows), 28, 28), 255, np.uint8))


def semantics_of(class_map):
    """Certain of one class at each pixel, on a grid of the photo's size."""
    class_map = np.asarray(class_map)
    planes = np.stack([np.where(class_map == c, 249, 2) for c in range(len(CATEGORIES))]).astype(np.uint8)
    height, width = class_map.shape
    image = ImageSemantics(1, height, width, height, width, 1.0, CATEGORIES.category_ids, planes)
    return average_semantics([image], weights=[1.0], categories=CATEGORIES, average_of="probabilities")


def fuse(instances, class_map, rules=RULES):
    instances, average = {"ups": instances}, semantics_of(class_map)
    return fuse_image_by_head(instances, average, categories=CATEGORIES, rules=rules, end_of_category=None)


LEFT_CAT = np.array([[0] * 4 + [2] * 4] * 6)
"""A cat on the left half, sky on the right."""


@pytest.mark.parametrize(
    ("rows", "min_stuff_area_px", "segments", "reasons"),
    [
        ([(CAT, 0.9, (0, 0, 4, 6))], 24, [(CAT, 24), (SKY, 24)], []),
        ([], 24, [(SKY, 24)], []),  # things that no instance claims are unknown, and so void
        ([], 25, [], [RejectReason.AREA]),
        ([(DOG, 0.9, (4, 0, 4, 6))], 24, [(SKY, 24)], [RejectReason.OUTVOTED]),
    ],
)
def test_an_instance_needs_semantics_that_agree_and_things_an_instance(rows, min_stuff_area_px, segments, reasons):
    fused = fuse(boxes(*rows), LEFT_CAT, HeuristicRules(0.6, 0.3, min_stuff_area_px, max_nms_iou=0.5))
    assert [(segment.category_id, segment.area_px) for segment in fused.segments] == segments
    assert [rejected.reason for rejected in fused.rejected] == reasons
    assert (fused.segment_ids[:, :4] == 0).all() == (CAT not in dict(segments))


def test_where_no_class_has_a_probability_only_instances_are():
    planes = np.zeros((1, 6, 8), np.uint8)
    image = ImageSemantics(1, 6, 8, 6, 8, 1.0, np.array([SKY], np.int32), planes)
    nothing = average_semantics([image], weights=[1.0], categories=CATEGORIES, average_of="probabilities")
    instances = {"ups": boxes((CAT, 0.9, (0, 0, 4, 6)))}
    ends = {"end_of_category": None, "rules": RULES, "categories": CATEGORIES}
    fused = fuse_image_by_head(instances, nothing, **ends)
    assert [(segment.category_id, segment.area_px) for segment in fused.segments] == [(CAT, 24)]


@pytest.mark.parametrize(("other", "overlaps"), [(CAT, True), (DOG, False)])
def test_the_overlap_is_measured_within_a_category(other, overlaps):
    instances = boxes((CAT, 0.9, (0, 0, 4, 6)), (other, 0.8, (0, 2, 4, 4)))
    fused = fuse(instances, LEFT_CAT, HeuristicRules(0.6, 0.3, 1))
    assert (RejectReason.OVERLAP_FRAC in [rejected.reason for rejected in fused.rejected]) is overlaps


def test_without_mask_probs_there_is_no_head():
    bare = found((CAT, 0.9, draw_box((6, 8), (0, 0, 4, 6))))
    with pytest.raises(CacheError, match="no mask_probs"):
        fuse(bare, LEFT_CAT)


def test_mask_probs_and_logits():
    logits = logit(np.array([0, 51, 204, 255], np.uint8) / np.float32(255), floor=FLOOR)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [-math.log(509), math.log(0.25), math.log(4), math.log(509)], rtol=1e-4)


def literal_map(instances, planes, rules):
    """The map of UPSNet section 3.3 and its test-time code, pixel by pixel: (H, W) segment ids, [(category_id, px)].

    `planes` (4, H, W) are 255 p of all classes on the photo's own grid, and every box is 4 x 4 px, so that each pixel
    reads one cell of the 28 x 28 mask probabilities.
    """
    classes, height, width = planes.shape
    logits = np.log(np.maximum(planes / 255, 1 / 510) * 510)
    kept = []
    for n in range(len(instances)):
        mask = instances.runs.mask(n)
        category_id = int(instances.category_ids[n])
        canvas = np.zeros((height, width), dtype=bool)
        for other in kept:
            if instances.category_ids[other] == category_id:
                canvas |= instances.runs.mask(other)
        taken = np.count_nonzero(mask & canvas) / np.count_nonzero(mask)
        if instances.scores[n] >= rules.min_score and taken <= rules.max_overlap_frac:
            kept.append(n)
    winner = np.full((height, width), UNKNOWN)
    for y, x in np.ndindex(height, width):
        channels = [(c, logits[c, y, x]) for c in range(THINGS, classes)]
        claimed = 0.0
        for place, n in enumerate(kept):
            left, top = instances.boxes_xywh[n, :2].astype(int)
            if left <= x < left + 4 and top <= y < top + 4:
                thing = logits[CATEGORIES.class_index(int(instances.category_ids[n])), y, x]
                prob = np.clip(instances.mask_probs[n, 7 * (y - top) + 3, 7 * (x - left) + 3] / 255, 1 / 510, 509 / 510)
                channels.append((256 + place, thing + math.log(prob / (1 - prob))))
                claimed = max(claimed, thing)
        channels.append((UNKNOWN, logits[:THINGS, y, x].max() - claimed))
        winner[y, x] = max(channels, key=lambda channel: channel[1])[0]  # the first of equal ones
        if winner[y, x] < 256 and not planes[:, y, x].any():
            winner[y, x] = UNKNOWN  # ours: a softmax always has a class
    semantic_argmax = planes.argmax(axis=0)
    segments, segment_ids = [], np.zeros((height, width), dtype=int)
    for place, n in enumerate(kept):
        region = winner == 256 + place
        votes = [np.count_nonzero(semantic_argmax[region] == c) for c in range(classes)]
        if sum(votes) and max(votes[THINGS:]) >= sum(votes) / 2:
            winner[region] = THINGS + int(np.argmax(votes[THINGS:]))
        elif sum(votes):
            segments.append((int(instances.category_ids[n]), sum(votes)))
            segment_ids[region] = len(segments)
    for c in range(THINGS, classes):
        area_px = np.count_nonzero(winner == c)
        if area_px >= max(1, rules.min_stuff_area_px):
            segments.append((CATEGORIES.categories[c].category_id, area_px))
            segment_ids[winner == c] = len(segments)
    return segment_ids, segments


def random_photo(rng):
    """Instances best first and planes (4, H, W); few different values, so that many are equal."""
    height, width = rng.integers(4, 9, 2).tolist()
    planes = rng.choice([0, 40, 90, 125, 200], (4, height, width)).astype(np.uint8)
    planes[rng.random(4) < 0.3] = 40
    rows, grids = [], []
    for score in sorted(rng.choice([0.5, 0.7, 0.9], rng.integers(0, 5)), reverse=True):
        left, top = rng.integers(0, width - 3), rng.integers(0, height - 3)
        cells = rng.choice([0, 30, 150, 255], (4, 4))
        cells[0, 0] = cells[3, 3] = 255  # the box is that of the mask
        mask = np.zeros((height, width), dtype=bool)
        mask[top : top + 4, left : left + 4] = cells >= 128
        rows.append((rng.choice([CAT, DOG]), score, mask))
        grids.append(np.kron(cells, np.ones((7, 7), dtype=int)))
    grids = np.array(grids, dtype=np.uint8).reshape(-1, 28, 28)
    return found(*rows, hw=(height, width), mask_probs=grids), planes


def average_of(planes):
    _, height, width = planes.shape
    image = ImageSemantics(1, height, width, height, width, 1.0, CATEGORIES.category_ids, planes)
    return average_semantics([image], weights=[1.0], categories=CATEGORIES, average_of="probabilities")


def test_the_map_is_the_papers_pixel_by_pixel():
    rng = np.random.default_rng(7)
    unseen = 0
    for _ in range(600):
        instances, planes = random_photo(rng)
        rules = HeuristicRules(0.6, 0.3, int(rng.integers(0, 3)))
        expected_ids, expected = literal_map(instances, planes, rules)
        fused = fuse_image_by_head(
            {"ups": instances}, average_of(planes), categories=CATEGORIES, rules=rules, end_of_category=None
        )
        np.testing.assert_array_equal(fused.segment_ids, expected_ids)
        assert [(segment.category_id, segment.area_px) for segment in fused.segments] == expected
        likeliest = {CATEGORIES.categories[index].category_id for index in planes.argmax(axis=0).ravel()}
        unseen += any(category_id in (SKY, SEA) and category_id not in likeliest for category_id, _ in expected)
    assert unseen > 5


def test_stuff_can_win_pixels_where_a_thing_is_likelier_all_over_the_image():
    planes = np.stack([np.full((1, 4), value, np.uint8) for value in (140, 0, 115, 0)])
    cells = np.repeat([[255, 255, 0, 0]], 4, axis=0)
    cat = found(
        (CAT, 0.9, draw_box((1, 4), (0, 0, 2, 1))),
        boxes_xywh=np.array([[0, 0, 4, 1]], np.float32),
        mask_probs=np.kron(cells, np.ones((7, 7))).astype(np.uint8)[None],
    )
    ends = {"end_of_category": None}
    fused = fuse_image_by_head({"ups": cat}, average_of(planes), categories=CATEGORIES, rules=RULES, **ends)
    assert fused.segment_ids.tolist() == [[1, 1, 2, 2]]
    assert [(segment.category_id, segment.area_px) for segment in fused.segments] == [(CAT, 2), (SKY, 2)]
