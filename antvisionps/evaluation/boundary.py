"""Boundary IoU of segments (Cheng et al. 2021, section 4): the IoU of the bands along their outlines.

The band of a segment are its pixels within d of one that is not its own, or of the image's edge. d is 0.02 of the
image's diagonal, and the distance that of a square window, as in the authors' code. Boundary PQ matches and measures by
min(mask IoU, boundary IoU), their section 6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.evaluation.segment_overlaps import SegmentOverlaps
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import run_starts

DILATION_FRAC = 0.02
"""d as a part of the image's diagonal (Cheng et al. 2021, section 4.2)."""

MAX_LABEL = np.iinfo(np.uint16).max


@dataclass(frozen=True, eq=False)
class BoundaryMaps:
    """Of each image (H, W) labels: 0 void, n the band of its n-th segment in ascending id, the last of `labels` what
    lies inside of the bands."""

    maps: Sequence[np.ndarray]
    labels: Sequence[int]

    @classmethod
    def of(cls, runs: SegmentRuns, *, sizes_hw: Sequence[tuple[int, int]], segments: Sequence[int]) -> BoundaryMaps:
        """Of images of some sizes and numbers of segments."""
        labels = [2 + count for count in segments]
        bounds = zip(runs.first_run[:-1].tolist(), runs.first_run[1:].tolist(), strict=True)
        maps = [
            _draw_bands(
                np.repeat(runs.segment_indices[first:stop], runs.lengths[first:stop]).reshape(hw), inside=count - 1
            )
            for (first, stop), hw, count in zip(bounds, sizes_hw, labels, strict=True)
        ]
        return cls(maps, labels)


def boundary_ious(overlaps: SegmentOverlaps, *, gt: BoundaryMaps, predicted: BoundaryMaps) -> np.ndarray:
    """(N,) the IoU of the bands of each two that overlap; a predicted band on void does not count. 0 with void."""
    ious = np.zeros(len(overlaps.row))
    bounds = np.searchsorted(overlaps.row, overlaps.gt.first).tolist()
    for image, (first, stop) in enumerate(itertools.pairwise(bounds)):
        shape = gt.labels[image], predicted.labels[image]
        row = overlaps.row[first:stop] - overlaps.gt.first[image]
        column = overlaps.column[first:stop] - overlaps.predicted.first[image]
        pair_ious = _band_ious(gt.maps[image], predicted.maps[image], shape)
        ious[first:stop] = pair_ious[row, column]
    return ious


def band_width_px(hw: tuple[int, int]) -> int:
    """d, at least 1."""
    return max(1, round(DILATION_FRAC * math.sqrt(hw[0] ** 2 + hw[1] ** 2)))


def _draw_bands(indices: np.ndarray, *, inside: int) -> np.ndarray:
    """(H, W) segment indices, `inside` in place of those of pixels whose window is all of their segment."""
    if inside > MAX_LABEL:
        raise DataError(
            f"an image with {inside - 1} segments; boundary PQ takes at most {MAX_LABEL - 1}: leave it out, by "
            "score.boundary_pq: false"
        )
    dtype = np.uint8 if inside <= np.iinfo(np.uint8).max else np.uint16
    indices = indices.astype(dtype)
    side = 2 * band_width_px(indices.shape) + 1
    kernel = np.ones((side, side), dtype=np.uint8)
    # Whatever lies outside of the image is no segment, so the least of a window at the edge is 0.
    least = cv2.erode(indices, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    is_inside = (least == cv2.dilate(indices, kernel)) & (indices > 0)
    indices[is_inside] = inside
    return indices


def _band_ious(gt: np.ndarray, predicted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`shape`, of each true (row) and predicted (column) label; 0 of void and of inside."""
    starts = run_starts(gt, predicted)
    gt_labels, predicted_labels = (labels.ravel()[starts].astype(np.intp) for labels in (gt, predicted))
    lengths = np.diff(starts, append=gt.size)
    shared_px = np.bincount(gt_labels * shape[1] + predicted_labels, lengths, shape[0] * shape[1]).reshape(shape)
    gt_px, predicted_px = shared_px.sum(axis=1), shared_px.sum(axis=0)
    union = gt_px[:, None] + (predicted_px - shared_px[0]) - shared_px
    ious = np.zeros(shape)
    is_band = np.s_[1:-1, 1:-1]
    np.divide(shared_px[is_band], union[is_band], out=ious[is_band], where=shared_px[is_band] > 0)
    return ious
