"""The union against a slow version of its definition, which samples by scipy."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import map_coordinates

from antvisionps.fusion.mask_union import UnionRules, join_instances
from antvisionps.fusion.rejected import RejectReason
from tests.drawing import draw, found

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools

CAT, DOG = 1, 2
HW = (18, 26)


def join(instances, *, weights=None, min_iou=0.5):
    return join_instances(instances, UnionRules(weights or dict.fromkeys(instances, 1.0), min_iou))


def masks_of(image):
    size = [image.height, image.width]
    return [coco_mask.decode({"size": size, "counts": rle}).astype(bool) for rle in image.rles]


def slow_values(grid, box, x, y):
    """Of a grid stretched over a box, at points: bilinear between the centres of its cells, which zeros surround."""
    places = np.broadcast_arrays((y - box[1]) / box[3] * len(grid) - 0.5, (x - box[0]) / box[2] * len(grid[0]) - 0.5)
    return map_coordinates(grid, places, output=float, order=1, mode="grid-constant")


def slow_join(instances, weights, min_iou):
    """(name, category, score, box, mean probability of each pixel (H, W), grid (28, 28), members) of every group."""
    everything = [
        (end, index, image, masks_of(image)[index]) for end, image in instances.items() for index in range(len(image))
    ]
    everything.sort(key=lambda one: -one[2].scores[one[1]])
    groups = []
    for end, index, image, mask in everything:
        best, best_iou = None, min_iou
        for group in groups:
            _, first_index, first_image, first_mask = group[0]
            if first_image.category_ids[first_index] != image.category_ids[index]:
                continue
            if end in [member[0] for member in group]:
                continue
            either = (mask | first_mask).sum()
            iou = (mask & first_mask).sum() / either if either else 0
            if iou > best_iou:
                best, best_iou = group, iou
        if best is None:
            groups.append([(end, index, image, mask)])
        else:
            best.append((end, index, image, mask))
    return [slow_average(group, instances, weights) for group in groups]


def slow_average(group, instances, weights):
    height, width = group[0][2].height, group[0][2].width
    influence = [weights[end] * float(image.scores[index]) for end, index, image, _ in group]
    share = [value / sum(influence) for value in influence]
    box = sum(
        part * image.boxes_xywh[index].astype(float) for part, (_, index, image, _) in zip(share, group, strict=True)
    )
    (rows, columns), (grid_rows, grid_columns) = np.ogrid[:height, :width], np.ogrid[:28, :28]
    mean, grid = np.zeros((height, width)), np.zeros((28, 28))
    for part, (_, index, image, mask) in zip(share, group, strict=True):
        probs, own_box = mask * 255, (0, 0, width, height)
        if image.mask_probs is not None:
            probs, own_box = image.mask_probs[index], image.boxes_xywh[index].astype(float)
        values = slow_values(probs, own_box, columns + 0.5, rows + 0.5)
        mean += part * np.where(mask, np.maximum(values, 128), np.minimum(values, 127)) / 255
        x, y = box[0] + (grid_columns + 0.5) / 28 * box[2], box[1] + (grid_rows + 0.5) / 28 * box[3]
        grid += part * slow_values(probs, own_box, x, y)
    members = [(end, index) for end, index, _, _ in group]
    name = "+".join(end for end in instances if end in dict(members))
    category_id = int(group[0][2].category_ids[group[0][1]])
    return name, category_id, sum(influence) / sum(weights.values()), box, mean, grid, members


def random_ends(rng):
    """Ends that saw the same blobs: shifted, missed, seen twice, of the wrong class; one may have no mask_probs."""
    blobs = []
    for _ in range(rng.integers(1, 5)):
        centre, radius = rng.uniform((0, 0), HW), rng.uniform(2, 7, 2)
        blobs.append((int(rng.choice([CAT, DOG])), centre, radius))
    levels = rng.choice([0.3, 0.5, 0.7, 0.9], 40) if rng.random() < 0.5 else rng.uniform(0.05, 1, 40)
    ends = {}
    for name in ("a", "b", "c")[: rng.integers(2, 4)]:
        rows, probs, boxes = [], [], []
        for category_id, centre, radius in blobs:
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                seen = category_id if rng.random() < 0.9 else CAT + DOG - category_id
                middle, reach = centre + rng.normal(0, 0.7, 2), radius * rng.uniform(0.8, 1.2, 2)
                y, x = np.mgrid[: HW[0], : HW[1]]
                mask = ((y - middle[0]) / reach[0]) ** 2 + ((x - middle[1]) / reach[1]) ** 2 < 1
                mask &= rng.random(HW) > 0.02
                rows.append((seen, rng.choice(levels), mask))
                row, column = np.mgrid[:28, :28]
                bump = 1.6 - ((row - 13.5) / 14) ** 2 - ((column - 13.5) / 14) ** 2
                probs.append(np.clip(255 * (bump - 0.5 + rng.normal(0, 0.1, (28, 28))), 0, 255).astype(np.uint8))
                boxes.append([middle[1] - reach[1], middle[0] - reach[0], 2 * reach[1], 2 * reach[0]])
        image = found(
            *rows,
            hw=HW,
            boxes_xywh=np.array(boxes, np.float32).reshape(-1, 4),
            mask_probs=np.array(probs, np.uint8).reshape(-1, 28, 28),
        ).sorted_by_score()
        ends[name] = image if rng.random() < 0.7 else replace(image, mask_probs=None)
    return ends


def check_member(image, left, ends, group):
    """That the image has an instance as this group of the slow version; takes it out of those that are `left`."""
    name, category_id, score, box, mean, grid, members = group
    same = [
        index
        for index in left
        if image.category_ids[index] == category_id and np.allclose(image.boxes_xywh[index], box, atol=1e-4)
    ]
    assert same, (name, category_id, box)
    index = same[0]
    left.remove(index)
    assert image.scores[index] == pytest.approx(score, abs=1e-6)
    mask = masks_of(image)[index]
    if len(members) == 1:
        ((end, at),) = members
        np.testing.assert_array_equal(mask, masks_of(ends[end])[at])
        return
    clear = abs(mean - 0.5) > 1e-5  # float32 may decide a closer one the other way
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(mask[clear], mean[clear] >= 0.5)
    assert abs(image.mask_probs[index] - grid).max() <= 0.5 + 1e-3
    assert image.areas_px[index] == mask.sum()


def test_the_union_is_that_of_the_slow_version():
    rng = np.random.default_rng(0)
    for _ in range(24):
        ends = random_ends(rng)
        weights = {end: float(rng.choice([1.0, 1.0, 0.4, 2.0])) for end in ends}
        min_iou = float(rng.choice([0.0, 0.3, 0.5, 0.7]))
        joined = join(ends, weights=weights, min_iou=min_iou)
        expected = slow_join(ends, weights, min_iou)
        left = {end: list(range(len(image))) for end, image in joined.instances.items()}
        for group in expected:
            check_member(joined.instances[group[0]], left[group[0]], ends, group)
        assert not any(left.values())
        merged = [(end, index) for *_, members in expected if len(members) > 1 for end, index in members]
        assert all(rejected.reason is RejectReason.MERGED for rejected in joined.rejected)
        assert sorted((rejected.end, rejected.score) for rejected in joined.rejected) == sorted(
            (end, float(ends[end].scores[index])) for end, index in merged
        )


def test_ends_that_agree_give_one_copy():
    rng = np.random.default_rng(0)
    for _ in range(10):
        keep = random_ends(rng)["a"]
        assert keep.areas_px.all()
        joined = join(dict.fromkeys(("a", "b", "c"), keep), weights={"a": 1.0, "b": 0.3, "c": 2.5})
        assert [len(image) for image in joined.instances.values()] == [0, 0, 0, len(keep)][: 3 + (len(keep) > 0)]
        if not len(keep):
            continue
        one = joined.instances["a+b+c"]
        order = np.lexsort((np.arange(len(keep)), keep.category_ids, -keep.scores))
        for name in ("category_ids", "scores", "boxes_xywh"):
            np.testing.assert_array_equal(getattr(one, name), getattr(keep, name)[order])
        assert one.rles == [keep.rles[index] for index in order]
        if keep.mask_probs is not None:
            np.testing.assert_array_equal(one.mask_probs, keep.mask_probs[order])


LEFT = draw("####.. ####.. ......")
MIDDLE = draw(".####. .####. ......")


@pytest.mark.parametrize(("min_iou", "groups"), [(0.59, 1), (0.6, 2)])
def test_masks_are_joined_above_the_limit_and_not_at_it(min_iou, groups):
    joined = join({"a": found((CAT, 0.9, LEFT)), "b": found((CAT, 0.7, MIDDLE))}, min_iou=min_iou)
    assert sum(map(len, joined.instances.values())) == groups  # 6 of 10 pixels are shared


def test_an_end_of_no_weight_is_routed_away():
    image = found((CAT, 0.9, LEFT))
    joined = join({"a": image, "b": found((CAT, 0.7, MIDDLE))}, weights={"a": 1.0, "b": 0.0})
    assert list(joined.instances) == ["a"]
    assert joined.instances["a"] is image
    assert [(rejected.end, rejected.reason) for rejected in joined.rejected] == [("b", RejectReason.ROUTED_AWAY)]


def test_empty_masks_and_empty_images_are_joined_with_nothing():
    empty = np.zeros_like(LEFT)
    joined = join({"a": found((CAT, 0.9, empty)), "b": found((CAT, 0.9, empty)), "c": found(hw=LEFT.shape)}, min_iou=0)
    assert [len(image) for image in joined.instances.values()] == [1, 1, 0]
    nothing = join({"a": found(hw=LEFT.shape), "b": found(hw=LEFT.shape)})
    assert sum(map(len, nothing.instances.values())) == 0
    assert not nothing.rejected


def test_scores_of_nothing_weigh_the_same():
    joined = join({"a": found((CAT, 0.0, LEFT)), "b": found((CAT, 0.0, MIDDLE))})
    assert [len(image) for image in joined.instances.values()] == [0, 0, 1]
    assert joined.instances["a+b"].scores.tolist() == [0]
    np.testing.assert_array_equal(masks_of(joined.instances["a+b"])[0], LEFT | MIDDLE)


def test_a_box_without_area_leaves_the_mask_to_say_what_is_foreground():
    flat = found((CAT, 0.9, LEFT), mask_probs=np.full((1, 28, 28), 255, np.uint8))
    flat.boxes_xywh[0, 2] = 0
    joined = join({"a": flat, "b": found((CAT, 0.3, LEFT))})
    np.testing.assert_array_equal(masks_of(joined.instances["a+b"])[0], LEFT)
