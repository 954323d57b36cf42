"""The compiled inner loops against the same in plain numpy, bit for bit."""

import os
import subprocess
import sys

import cv2
import numpy as np

from antvisionps.fusion import map_kernels
from antvisionps.fusion.semantic_average import average_semantics
from antvisionps.panoptic.rle import encode_masks, parse_runs
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import category_set
from tests.tiny_run import PROJECT

CATEGORIES = category_set({}, {i: f"class {i}" for i in range(1, 200)})


def pixels_between(centres, cells, pixels):
    """Of an axis the centres around each pixel, and its way from the one before to the next."""
    position = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
    before = np.clip(np.floor(position), -1, centres - 1)
    frac = np.clip(position - before, 0, 1).astype(np.float32)
    return np.maximum(before, 0).astype(int), np.minimum(before + 1, centres - 1).astype(int), frac


def argmax_by_numpy(average):
    """Every class at every pixel, in the order of operations that the maps rest on."""
    grid, pixels = average.grid, (average.height, average.width)
    (y0, y1, frac_y), (x0, x1, frac_x) = map(pixels_between, grid.shape, grid.cells_hw, pixels)
    rest_y, rest_x, sums = np.float32(1) - frac_y, np.float32(1) - frac_x, average.sums
    left = sums[:, y0][:, :, x0] * rest_y[:, None] + sums[:, y1][:, :, x0] * frac_y[:, None]
    right = sums[:, y0][:, :, x1] * rest_y[:, None] + sums[:, y1][:, :, x1] * frac_y[:, None]
    return average.class_indices[(left * rest_x + right * frac_x).argmax(axis=0)]


def few_levels(rng, classes, grid):
    """So that there are ties."""
    return rng.integers(0, rng.choice([2, 4, 256]), (classes, *grid)).astype(np.uint8)


def smooth_planes(rng, classes, grid):
    """(classes, *grid) uint8 that are as those of a network: nearly sure inside regions, unsure on borders."""
    logits = np.stack(
        [cv2.resize(rng.normal(size=(4, 5)), grid[::-1], interpolation=cv2.INTER_CUBIC) for _ in range(classes)]
    )
    probs = np.exp(logits * rng.choice([1, 4, 12]) + 0.3 * rng.normal(size=logits.shape))
    return np.rint(255 * probs / probs.sum(axis=0)).astype(np.uint8)


def random_ends(rng, size, planes_of):
    ends = []
    photo_hw = np.maximum(size * rng.choice([0.2, 0.5, 1.3]), 1).astype(int).tolist()
    for stride in rng.choice([4.0, 5.0, 8.0, 16.0], rng.integers(1, 4)):
        grid = tuple(np.ceil(size / stride).astype(int).tolist())
        category_ids = rng.choice(np.arange(1, rng.choice([16, 200])), rng.integers(1, 12), replace=False)
        planes = planes_of(rng, len(category_ids), grid)
        ends.append(ImageSemantics(1, *photo_hw, *size.tolist(), stride, category_ids.astype(np.int32), planes))
    return ends


def test_what_is_left_out_of_the_argmax_changes_no_pixel():
    rng = np.random.default_rng(0)
    for index in range(120):
        largest, planes_of = ((400, smooth_planes), (60, few_levels))[index % 2]
        ends = random_ends(rng, rng.integers(1, largest, 2), planes_of)
        weights = rng.choice([0.3, 1.0, 2.0], len(ends))
        average_of = ("probabilities", "log_probabilities")[index // 2 % 2]
        average = average_semantics(ends, weights=weights, categories=CATEGORIES, average_of=average_of)
        np.testing.assert_array_equal(average.class_map, argmax_by_numpy(average), err_msg=str(index))


def test_each_step_between_the_cells_at_a_pixel_is_rounded():
    """At thirds of the way sums of small numbers are equal but for their rounding."""
    planes = np.random.default_rng(0).integers(1, 9, (3, 40, 40), dtype=np.uint8)
    image = ImageSemantics(1, 120, 120, 40, 40, 1.0, np.array([1, 2, 3], np.int32), planes)
    average = average_semantics([image], weights=[1.0], categories=CATEGORIES, average_of="probabilities")
    np.testing.assert_array_equal(average.class_map, argmax_by_numpy(average))


def test_a_class_that_only_rounding_puts_behind_another_can_win_the_tie():
    """Of sums one float32 apart, some of the rounded values between equal cells are the same."""
    ends = [
        ImageSemantics(1, 60, 60, 20, 20, 1.0, np.array([category_id], np.int32), np.full((1, 20, 20), cell, np.uint8))
        for category_id, cell in ((1, 150), (2, 50))
    ]
    average = average_semantics(ends, weights=[0.1, 0.3], categories=CATEGORIES, average_of="probabilities")
    assert (np.nextafter(average.sums[0], np.float32(999)) == average.sums[1]).all()
    expected = argmax_by_numpy(average)
    assert set(np.unique(expected)) == {0, 1}
    np.testing.assert_array_equal(average.class_map, expected)


def test_values_between_the_cells_of_a_coarser_grid_are_rounded_twice():
    def between(values, at):
        before, after, frac = pixels_between(len(values), len(values), at)
        low, high = values[before], values[after]
        frac = frac.reshape(-1, *[1] * (values.ndim - 1)).astype(float)
        return ((high - low).astype(np.float32) * frac + low).astype(np.float32)

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 5, 7), dtype=np.uint8)
    ends = [
        ImageSemantics(1, 9, 9, 50, 70, stride, np.array([category_id], np.int32), planes)
        for stride, category_id, planes in ((1.0, 1, np.ones((1, 50, 70), np.uint8)), (10.0, 2, coarse))
    ]
    average = average_semantics(ends, weights=[1.0, 0.3], categories=CATEGORIES, average_of="probabilities")
    weighted = coarse[0].astype(np.float32) * np.float32(0.3)
    np.testing.assert_array_equal(average.sums[1], between(between(weighted.T, 70).T, 50))


def paste(rles, hw, *, lies_on=None):
    ids = np.zeros(hw[0] * hw[1], dtype=np.uint8)
    free_px, fates = np.zeros(len(rles), dtype=np.int64), np.zeros(len(rles), dtype=np.int64)
    runs = parse_runs(rles, height=hw[0], width=hw[1])
    map_kernels.paste_masks(
        runs.starts,
        runs.stops,
        runs.first_run,
        np.zeros((0, 0), dtype=bool) if lies_on is None else lies_on,
        0.5,
        ids,
        free_px,
        fates,
    )
    return ids.reshape(hw[::-1]).T, free_px, fates


def test_masks_are_pasted_as_whole_masks_would_be():
    rng = np.random.default_rng(0)
    for index in range(200):
        hw = tuple(rng.integers(1, 30, 2).tolist())
        masks = rng.random((rng.integers(1, 9), *hw)) < rng.random()
        lies_on = rng.random((len(masks), len(masks))) < 0.3 if index % 2 else None
        ids, free_px, fates = paste(encode_masks(masks), hw, lies_on=lies_on)
        expected, pasted = np.zeros(hw, dtype=int), []
        for number, (mask, free, fate) in enumerate(zip(masks, free_px, fates, strict=True)):
            below = [0, *(1 + i for i, other in enumerate(pasted) if lies_on is not None and lies_on[number, other])]
            visible = mask & np.isin(expected, below)
            assert free == visible.sum()
            if mask.any() and (mask.sum() - visible.sum()) / mask.sum() > 0.5:
                assert fate == map_kernels.OVERLAPPED
            elif not visible.any():
                assert fate == map_kernels.EMPTY
            else:
                pasted.append(number)
                expected[visible] = len(pasted)
        np.testing.assert_array_equal(ids, expected)


def test_reading_caches_and_annotations_needs_no_compiler():
    code = """
import sys
import antvisionps.predictions.split_caches, antvisionps.fusion.system, antvisionps.panoptic.coco_json
assert not {"numba", "llvmlite"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
