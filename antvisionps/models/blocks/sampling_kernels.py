"""Bilinear sampling of features and its gradient, compiled: for deformable convolution and RoIAlign on a CPU.

Features are (N, H, W, C), so that the channels of a cell lie side by side and are read and added as vectors.
"""

from typing import Any

import numpy as np
from numba import types

from antvisionps.core.compiled import compiled, filled, frozen, inlined

_FLOATS = ("float32", "float64")


@inlined
def _neighbours(position: Any, size: Any, zero: Any, one: Any) -> Any:
    """Of a position in [-1, size): the two cells around it, their weights and these weights' derivatives.

    A cell outside has the weight 0; the nearest one inside stands for it.
    """
    floor = np.floor(position)
    part, cell = position - floor, int(floor)
    low_inside, high_inside = cell >= 0, cell + 1 < size
    low, high = cell if low_inside else 0, cell + 1 if high_inside else size - 1
    d_low, d_high = -one if low_inside else zero, one if high_inside else zero
    return low, high, d_low * (part - one), d_high * part, d_low, d_high


@inlined
def _dot(left: Any, right: Any, total: Any) -> Any:
    for c in range(len(left)):
        total += left[c] * right[c]
    return total


@inlined
def _add(row: Any, weight: Any, other: Any) -> None:
    for c in range(len(row)):
        row[c] += weight * other[c]


@compiled(*(types.void(frozen(f, 4), frozen(f, 3), filled(f, 3)) for f in _FLOATS))
def sample(features: Any, positions: Any, sampled: Any) -> None:
    """Fills sampled (N, P, C) with features (N, H, W, C) at positions (N, P, 2) in cells, y before x; 0 outside."""
    images, height, width, channels = features.shape
    zero, one = features.dtype.type(0), features.dtype.type(1)
    for n in range(images):
        for p in range(positions.shape[1]):
            y, x = positions[n, p, 0], positions[n, p, 1]
            if not (-1 <= y < height and -1 <= x < width):
                sampled[n, p] = 0
                continue
            top, bottom, w_top, w_bottom, _, _ = _neighbours(y, height, zero, one)
            left, right, w_left, w_right, _, _ = _neighbours(x, width, zero, one)
            top_left, top_right = features[n, top, left], features[n, top, right]
            bottom_left, bottom_right = features[n, bottom, left], features[n, bottom, right]
            out = sampled[n, p]
            for c in range(channels):
                upper = w_left * top_left[c] + w_right * top_right[c]
                out[c] = w_top * upper + w_bottom * (w_left * bottom_left[c] + w_right * bottom_right[c])


@compiled(*(types.void(frozen(f, 4), frozen(f, 3), frozen(f, 3), filled(f, 4), filled(f, 3)) for f in _FLOATS))
def sample_backward(features: Any, positions: Any, gradient: Any, of_features: Any, of_positions: Any) -> None:
    """Adds to of_features (N, H, W, C) and fills of_positions (N, P, 2), by the gradient (N, P, C) of `sample`."""
    images, height, width, _ = features.shape
    zero, one = features.dtype.type(0), features.dtype.type(1)
    for n in range(images):
        for p in range(positions.shape[1]):
            y, x = positions[n, p, 0], positions[n, p, 1]
            if not (-1 <= y < height and -1 <= x < width):
                of_positions[n, p] = 0
                continue
            top, bottom, w_top, w_bottom, d_top, d_bottom = _neighbours(y, height, zero, one)
            left, right, w_left, w_right, d_left, d_right = _neighbours(x, width, zero, one)
            of_sample = gradient[n, p]
            top_left = _dot(of_sample, features[n, top, left], zero)
            top_right = _dot(of_sample, features[n, top, right], zero)
            bottom_left = _dot(of_sample, features[n, bottom, left], zero)
            bottom_right = _dot(of_sample, features[n, bottom, right], zero)
            of_top, of_bottom = w_left * top_left + w_right * top_right, w_left * bottom_left + w_right * bottom_right
            of_left, of_right = w_top * top_left + w_bottom * bottom_left, w_top * top_right + w_bottom * bottom_right
            of_positions[n, p, 0] = d_top * of_top + d_bottom * of_bottom
            of_positions[n, p, 1] = d_left * of_left + d_right * of_right
            _add(of_features[n, top, left], w_top * w_left, of_sample)
            _add(of_features[n, top, right], w_top * w_right, of_sample)
            _add(of_features[n, bottom, left], w_bottom * w_left, of_sample)
            _add(of_features[n, bottom, right], w_bottom * w_right, of_sample)


@inlined
def _bin(low: Any, high: Any, bins: Any, sampling_ratio: Any, aligned: Any) -> Any:
    """Of one axis of a box: the size of its bins in cells, and how many samples are taken in each."""
    size = (high - low if aligned else max(high - low, 1.0)) / bins
    return size, sampling_ratio if sampling_ratio > 0 else max(int(np.ceil(size)), 0)


@compiled(
    *(
        types.void(filled(f, 4), frozen(f, 2), types.float64, types.int64, types.boolean, filled(f, 4), types.boolean)
        for f in _FLOATS
    )
)
def roi_align(
    features: Any, rois: Any, scale: Any, sampling_ratio: Any, aligned: Any, pooled: Any, transposed: Any
) -> None:
    """Adds to pooled (K, bins_y, bins_x, C) the mean of features (N, H, W, C) in each bin of boxes.

    Transposed, which is the gradient, it adds to features what pooled holds. rois and the rest are as in roi_align_cpu.
    """
    _, height, width, _ = features.shape
    boxes, bins_y, bins_x, _ = pooled.shape
    number = features.dtype.type
    zero, one, half = number(0), number(1), 0.5 if aligned else 0.0
    for k in range(boxes):
        n, x1, y1, x2, y2 = int(rois[k, 0]), rois[k, 1], rois[k, 2], rois[k, 3], rois[k, 4]
        size_y, samples_y = _bin(y1 * scale, y2 * scale, bins_y, sampling_ratio, aligned)
        size_x, samples_x = _bin(x1 * scale, x2 * scale, bins_x, sampling_ratio, aligned)
        for row in range(bins_y * samples_y):
            y = y1 * scale - half + row // samples_y * size_y + (row % samples_y + 0.5) * size_y / samples_y
            if y < -1 or y > height:
                continue
            y = number(min(max(y, 0), height - 1))
            top, bottom, w_top, w_bottom, _, _ = _neighbours(y, height, zero, one)
            for column in range(bins_x * samples_x):
                x = x1 * scale - half + column // samples_x * size_x + (column % samples_x + 0.5) * size_x / samples_x
                if x < -1 or x > width:
                    continue
                x = number(min(max(x, 0), width - 1))
                left, right, w_left, w_right, _, _ = _neighbours(x, width, zero, one)
                part = one / number(samples_y * samples_x)
                cell = pooled[k, row // samples_y, column // samples_x]
                for y_of, w_y in ((top, w_top * part), (bottom, w_bottom * part)):
                    for x_of, w_x in ((left, w_left), (right, w_right)):
                        if transposed:
                            _add(features[n, y_of, x_of], w_y * w_x, cell)
                        else:
                            _add(cell, w_y * w_x, features[n, y_of, x_of])
