"""All that is counted of the segments of a prediction: by mask IoU, by boundary IoU, and what the errors are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from antvisionps.evaluation.boundary import BoundaryMaps, boundary_ious
from antvisionps.evaluation.error_kinds import ErrorCounts, count_errors
from antvisionps.evaluation.panoptic_quality import SegmentMatches, match_overlaps
from antvisionps.evaluation.segment_overlaps import SegmentOverlaps
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import Segment


@dataclass(frozen=True, eq=False)
class SegmentMaps:
    """The maps of some images, their segments, and the bands along their outlines where these are to count."""

    runs: SegmentRuns
    segments: Sequence[Sequence[Segment]]
    bands: BoundaryMaps | None

    @classmethod
    def of(
        cls,
        runs: SegmentRuns,
        segments: Sequence[Sequence[Segment]],
        *,
        sizes_hw: Sequence[tuple[int, int]],
        with_bands: bool,
    ) -> SegmentMaps:
        counts = [len(listed) for listed in segments]
        bands = BoundaryMaps.of(runs, sizes_hw=sizes_hw, segments=counts) if with_bands else None
        return cls(runs, segments, bands)


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """`boundary` are the matches by min(mask IoU, boundary IoU), where asked for."""

    matches: SegmentMatches
    boundary: SegmentMatches | None
    errors: ErrorCounts

    @classmethod
    def join(cls, parts: Sequence[SegmentScores]) -> SegmentScores:
        """Each part's images after those of the parts before."""
        boundary = [part.boundary for part in parts if part.boundary is not None]
        return cls(
            SegmentMatches.join([part.matches for part in parts]),
            SegmentMatches.join(boundary) if boundary else None,
            ErrorCounts.total([part.errors for part in parts]),
        )


def score_segments(gt: SegmentMaps, predicted: SegmentMaps) -> SegmentScores:
    """Of the same images in both."""
    overlaps = SegmentOverlaps.of(
        gt_runs=gt.runs, gt=gt.segments, predicted_runs=predicted.runs, predicted=predicted.segments
    )
    matching = match_overlaps(overlaps)
    boundary = None
    if gt.bands and predicted.bands:
        max_ious = boundary_ious(overlaps, gt=gt.bands, predicted=predicted.bands)
        boundary = match_overlaps(overlaps, max_ious=max_ious).describe(overlaps)
    return SegmentScores(matching.describe(overlaps), boundary, count_errors(overlaps, matching))
