"""The compiled inner loops against the same in plain numpy, bit for bit, and against OpenCV and pycocotools."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from antvisionps.coco_panoptic import measure_segments
from antvisionps.fusion import map_kernels, semantic_kernels
from antvisionps.predictions.rle import encode_masks

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
    semantic_kernels.argmax_of_sums(sums, first_y, frac_y, first_x, frac_x, x0.astype(np.uint32), indices, found)
    np.testing.assert_array_equal(found, argmax_by_numpy(sums, (y0, y1, frac_y), (x0, x1, frac_x), indices))


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
    ids, measures = np.empty(hw, np.int32), np.zeros((6, 5), np.int64)
    measures[:, 1:3] = hw[::-1]
    numbered, of_run = np.empty(count, np.int32), np.empty(count, np.int32)
    constant = lengths[:count], run_owners[:count], run_classes[:count]
    runs = map_kernels.number_runs(*constant, segment_of_class, ids, numbered, of_run, measures)
    np.testing.assert_array_equal(ids, np.where(owners > 0, owners, segment_of_class[classes]))
    np.testing.assert_array_equal(np.repeat(of_run[:runs], numbered[:runs]), ids.ravel())
    assert (np.diff(of_run[:runs]) != 0).all()
    for segment in measure_segments(ids, category_ids=dict.fromkeys(range(6), 1)):
        area_px, left, top, right, bottom = measures[segment.segment_id].tolist()
        assert (area_px, (left, top, right - left, bottom - top)) == (segment.area_px, segment.bbox_xywh)


def test_reading_caches_and_annotations_needs_no_compiler():
    code = """
import sys
import antvisionps.predictions.ends, antvisionps.fusion.system, antvisionps.coco_panoptic
assert not {"numba", "llvmlite"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)})
