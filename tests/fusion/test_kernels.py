"""The compiled inner loops against the same in plain numpy, bit for bit, and against OpenCV and pycocotools."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from antvisionps.fusion import map_kernels, semantic_kernels
from antvisionps.fusion.semantic_average import _Axis, average_semantics
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import measure_segments
from antvisionps.predictions.semantic import ImageSemantics

PROJECT = Path(__file__).parents[2]


def argmax_by_numpy(sums, rows, columns, classes):
    """Every class at every pixel, in the order of operations that the maps rest on."""
    (y0, y1, frac_y), (x0, x1, frac_x) = rows, columns
    rest_y, rest_x = np.float32(1) - frac_y, np.float32(1) - frac_x
    left = sums[:, y0][:, :, x0] * rest_y[:, None] + sums[:, y1][:, :, x0] * frac_y[:, None]
    right = sums[:, y0][:, :, x1] * rest_y[:, None] + sums[:, y1][:, :, x1] * frac_y[:, None]
    return classes[(left * rest_x + right * frac_x).argmax(axis=0)]


def pixels_of(rng, centres, pixels):
    """An axis: where the pixels of each gap begin, and each pixel's two centres and its way between them."""
    gap = np.sort(rng.integers(0, centres + 1, pixels))
    frac = rng.random(pixels, dtype=np.float32)
    first = np.searchsorted(gap, np.arange(centres + 2))
    return first, frac, np.maximum(gap - 1, 0), np.minimum(gap, centres - 1)


def on_one_grid(sums):
    """What the kernels take for planes (K, rows, columns) of one end, each a class, on the grid of the result."""
    classes, rows, columns = sums.shape
    planes = np.array([(place * rows * columns, columns, 0, place, True) for place in range(classes)])
    around = [np.zeros((1, 2, size), dtype=np.uint32) for size in (rows, columns)]
    fracs = [np.zeros((1, size), dtype=np.float32) for size in (rows, columns)]
    ends = np.ones(1, dtype=np.float32), np.array([columns]), np.array([True])
    return sums.ravel(), planes, *ends, around[0], fracs[0], around[1], fracs[1]


@pytest.mark.parametrize("seed", range(200))
def test_the_argmax_has_the_bits_of_numpy(seed):
    rng = np.random.default_rng(seed)
    classes, rows, columns, height, width = rng.integers(1, 20, 5)
    few_values = rng.integers(0, 4, (classes, rows, columns)).astype(np.float32)  # so that there are ties
    sums = few_values if seed % 2 else rng.random((classes, rows, columns), dtype=np.float32)
    first_y, frac_y, y0, y1 = pixels_of(rng, rows, height)
    first_x, frac_x, x0, x1 = pixels_of(rng, columns, width)
    indices = np.sort(rng.choice(200, classes, replace=False)).astype(np.uint8)
    found = np.empty((height, width), dtype=np.uint8)
    semantic_kernels.argmax_of_planes(*on_one_grid(sums), first_y, frac_y, first_x, frac_x, indices, found)
    np.testing.assert_array_equal(found, argmax_by_numpy(sums, (y0, y1, frac_y), (x0, x1, frac_x), indices))


def smooth_planes(rng, classes, grid):
    """(classes, *grid) uint8 that are as those of a network: nearly sure inside regions, unsure on borders."""
    logits = np.stack(
        [cv2.resize(rng.normal(size=(4, 5)), grid[::-1], interpolation=cv2.INTER_CUBIC) for _ in range(classes)]
    )
    probs = np.exp(logits * rng.choice([1, 4, 12]) + 0.3 * rng.normal(size=logits.shape))
    return np.rint(255 * probs / probs.sum(axis=0)).astype(np.uint8)


@pytest.mark.parametrize("average_of", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("seed", range(40))
def test_what_a_block_leaves_out_changes_no_pixel(seed, average_of):
    rng = np.random.default_rng(seed)
    categories = CategorySet.from_json(
        [{"id": i, "name": f"class {i}", "isthing": 0} for i in range(1, 16)], where="test"
    )
    size = rng.integers(90, 400, 2)
    ends = []
    for stride in rng.choice([4.0, 5.0, 8.0, 16.0], rng.integers(1, 4)):
        grid = tuple(np.ceil(size / stride).astype(int).tolist())
        category_ids = rng.choice(np.arange(1, 16), rng.integers(1, 12), replace=False).astype(np.int32)
        planes = smooth_planes(rng, len(category_ids), grid)
        ends.append(ImageSemantics(1, *(size // 2).tolist(), *size.tolist(), stride, category_ids, planes))
    weights = rng.choice([0.3, 1.0, 2.0], len(ends))
    average = average_semantics(ends, weights=weights, categories=categories, average_of=average_of)
    axes = [
        _Axis.of(centres=centres, cells=cells, pixels=pixels)
        for centres, cells, pixels in zip(average.grid.shape, average.grid.cells_hw, size // 2, strict=True)
    ]
    gaps = [np.repeat(np.arange(len(axis.first) - 1), np.diff(axis.first)) for axis in axes]
    around = [
        (np.maximum(gap - 1, 0), np.minimum(gap, centres - 1), axis.frac)
        for gap, axis, centres in zip(gaps, axes, average.grid.shape, strict=True)
    ]
    np.testing.assert_array_equal(average.class_map(), argmax_by_numpy(average.sums, *around, average.class_indices))


def test_a_class_that_is_the_largest_at_no_corner_can_be_it_between_them():
    sums = np.zeros((3, 2, 2), dtype=np.float32)
    sums[0, :, 0] = sums[1, :, 1] = 0.5
    sums[2] = 0.3
    frac = np.full(1, 0.5, dtype=np.float32)
    first = np.array([0, 0, 1, 1])
    found = np.empty((1, 1), dtype=np.uint8)
    classes = np.arange(3, dtype=np.uint8)
    semantic_kernels.argmax_of_planes(*on_one_grid(sums), first, frac, first, frac, classes, found)
    assert found == 2


def paste(rles, areas_px, hw, *, max_overlap_frac=0.5, lies_on=None):
    ids = np.zeros(hw[0] * hw[1], dtype=np.uint8)
    free_px, fates = np.zeros(len(rles), dtype=np.int64), np.zeros(len(rles), dtype=np.int64)
    bad = map_kernels.paste_masks(
        np.frombuffer(b"".join(rles), dtype=np.uint8),
        np.cumsum([0, *map(len, rles)]),
        np.asarray(areas_px, dtype=np.int64),
        np.zeros((0, 0), dtype=bool) if lies_on is None else lies_on,
        max_overlap_frac,
        ids,
        free_px,
        fates,
    )
    return bad, ids.reshape(hw[::-1]).T, free_px, fates


@pytest.mark.parametrize("seed", range(100))
def test_masks_are_pasted_as_whole_masks_would_be(seed):
    rng = np.random.default_rng(seed)
    hw = tuple(rng.integers(1, 30, 2).tolist())
    masks = rng.random((rng.integers(1, 9), *hw)) < rng.random()
    bad, ids, free_px, fates = paste(encode_masks(masks), masks.sum(axis=(1, 2)), hw)
    expected, pasted = np.zeros(hw, dtype=int), 0
    for mask, free, fate in zip(masks, free_px, fates, strict=True):
        visible = mask & (expected == 0)
        assert free == visible.sum()
        if mask.any() and (mask.sum() - visible.sum()) / mask.sum() > 0.5:
            assert fate == map_kernels.OVERLAPPED
        elif not visible.any():
            assert fate == map_kernels.EMPTY
        else:
            pasted += 1
            expected[visible] = pasted
    assert bad == map_kernels.ALL_READ
    np.testing.assert_array_equal(ids, expected)


def test_the_first_mask_that_is_malformed_or_of_another_area_is_named():
    (rle,) = encode_masks(np.ones((1, 4, 5)))
    assert paste([rle, rle], [20, 20], (4, 5))[0] == map_kernels.ALL_READ
    assert paste([rle, rle], [20, 19], (4, 5))[0] == 1
    for broken in (b"", b"\x1f", b"P", rle[:-1], rle + b"1", b"ooooooooooo0"):
        assert paste([rle, broken], [20, 20], (4, 5))[0] == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("seed", range(30))
def test_runs_give_the_map_and_its_segments_back(seed, dtype):
    rng = np.random.default_rng(seed)
    hw = tuple(rng.integers(1, 25, 2).tolist())
    owners = np.repeat(rng.integers(0, 4, hw), 3, axis=1).astype(dtype)
    classes = np.repeat(rng.integers(0, 3, hw), 3, axis=1).astype(np.uint8)
    size, hw = owners.size, owners.shape
    lengths, run_owners, run_classes = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.uint8)
    area_of, free_of = np.zeros(256, np.int64), np.zeros(256, np.int64)
    flat = owners.ravel(), classes.ravel(), classes.ravel()
    count = map_kernels.find_common_runs(*flat, lengths, run_owners, run_classes, area_of, free_of)
    np.testing.assert_array_equal(area_of, np.bincount(classes.ravel(), minlength=256))
    np.testing.assert_array_equal(free_of, np.bincount(classes[owners == 0], minlength=256))

    segment_of_class = np.zeros(256, np.int32)
    segment_of_class[:3] = 4, 0, 5
    ids, measures = np.where(owners > 0, owners, segment_of_class[classes]), np.zeros((6, 5), np.int64)
    measures[:, 1:3] = hw[::-1]
    numbered, of_run = np.empty(count, np.int32), np.empty(count, np.int32)
    constant = lengths[:count], run_owners[:count], run_classes[:count]
    runs = map_kernels.number_runs(*constant, segment_of_class, hw[1], numbered, of_run, measures)
    np.testing.assert_array_equal(np.repeat(of_run[:runs], numbered[:runs]), ids.ravel())
    assert (np.diff(of_run[:runs]) != 0).all()
    for segment in measure_segments(ids, category_ids=dict.fromkeys(range(6), 1)):
        area_px, left, top, right, bottom = measures[segment.segment_id].tolist()
        assert (area_px, (left, top, right - left, bottom - top)) == (segment.area_px, segment.bbox_xywh)


def test_reading_caches_and_annotations_needs_no_compiler():
    code = """
import sys
import antvisionps.predictions.split_caches, antvisionps.fusion.system, antvisionps.panoptic.coco_json
assert not {"numba", "llvmlite"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
