"""What the report page shows of one image, as plain values: every map as runs, every segment with its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from antvisionps.core.errors import CacheError, clipped
from antvisionps.evaluation.disagreement import disagreement
from antvisionps.evaluation.panoptic_quality import SIZES, MatchCounts
from antvisionps.evaluation.segment_outcomes import (
    IGNORED,
    MATCHED,
    OUTCOMES,
    ImageOutcomes,
    SegmentOutcome,
    best_gt_segments,
    confused_segments,
    explain_segments,
)
from antvisionps.fusion.semantic_average import average_semantics
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import GtInstances, open_annotated, visible_instances
from antvisionps.panoptic.segments import PanopticImage, Segment, run_starts
from antvisionps.predictions.fused_files import CANDIDATES, REMEDY, SEGMENTS, RowsByImage, has_doubt, read_doubt
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.overlays import shrink_photo, shrunk_hw
from antvisionps.report.reliability import WrongOf, wrong_of_ends, wrong_segments

Json = dict[str, Any]
SCORE_DIGITS, IOU_DIGITS = 4, 4
LEVELS = 10
"""In which the page shows what has a degree: disagreement and doubt."""


@dataclass(frozen=True)
class ReportSources:
    """Where the page of a split comes from; the maps in `fused` are of the truth's images, in its order.

    A system without maps has None there, and a MatchCounts for each image in `counts`. Without caches there are no
    ends.
    """

    truth: PanopticDataset
    fused: Mapping[str, PanopticDataset | None]
    caches: SplitCaches | None = None
    ends: Sequence[str] = ()
    counts: Mapping[str, Sequence[MatchCounts]] = field(default_factory=dict)

    @property
    def mapped(self) -> dict[str, PanopticDataset]:
        """The systems with maps."""
        return {system: fused for system, fused in self.fused.items() if fused is not None}

    @property
    def kinds(self) -> dict[str, list[str]]:
        """What each end predicts: instances, semantic, or both."""
        if self.caches is None:
            return {}
        of_kind: dict[str, Mapping[str, Any]] = {
            "instances": self.caches.open_instances(self.ends),
            "semantic": self.caches.open_semantics(self.ends),
        }
        return {end: [kind for kind, readers in of_kind.items() if end in readers] for end in self.ends}


@dataclass(frozen=True, eq=False)
class ImageData:
    """`page` is what the page loads when it shows the image; `tally` is system → what `tally_outcomes` gives;
    `confused` is system → (2, C + 1, C + 1), pixels and segments of each true and predicted class index; `wrong` is
    name/of → (15,) what is wrong in each bin of a reliability diagram."""

    page: Json
    tally: dict[str, list[list[float]]]
    confused: dict[str, np.ndarray]
    wrong: WrongOf


@dataclass(frozen=True, eq=False)
class _OfSystem:
    """What the page shows of an image by one system, and what is counted of it; `wrong` is None without ends."""

    page: Json
    tally: list[list[float]]
    confused: np.ndarray
    wrong: np.ndarray | None


class PageFiles:
    """The files that the page is of, opened."""

    def __init__(self, sources: ReportSources) -> None:
        self.sources, self.categories = sources, sources.truth.categories
        caches, ends = sources.caches, sources.ends
        self.instances = caches.open_instances(ends) if caches else {}
        self.semantics = caches.open_semantics(ends) if caches else {}
        self.annotated = open_annotated(caches.dataset) if caches else None
        self.rows_of = {
            system: [RowsByImage(fused.annotations.parent, table, fused) for table in (SEGMENTS, CANDIDATES)]
            for system, fused in sources.mapped.items()
        }

    def assemble(self, index: int) -> ImageData:
        """The data of the image at that index."""
        image = self.sources.truth.images[index]
        gt_ids = self.sources.truth.load_segment_ids(image)
        found = {end: reader.read(image.image_id) for end, reader in self.instances.items()}
        planes = {end: reader.read(image.image_id) for end, reader in self.semantics.items()}
        systems = {
            system: self._of_system(system, fused, index, gt_ids, found)
            for system, fused in self.sources.mapped.items()
        }
        tally = {
            system: (
                systems[system].tally
                if system in systems
                else tally_counts(self.sources.counts[system][index], self.categories)
            )
            for system in self.sources.fused
        }
        wrong: WrongOf = {}
        if self.sources.ends:
            gt = self._gt_instances(image, gt_ids)
            wrong = wrong_of_ends(found, planes, gt=gt, gt_ids=gt_ids, image=image, categories=self.categories)
        page = {
            "id": image.image_id,
            "disagreement": _disagreement_runs([*planes.values()], image, self.categories),
            "map": segment_id_runs(gt_ids, image.segments),
            "segments": [
                _described(segment, self.categories) | {"crowd": segment.is_crowd} for segment in image.segments
            ],
            "systems": {system: of.page for system, of in systems.items()},
            "ends": {
                end: {
                    "semantic": _semantic_runs(planes.get(end), self.categories),
                    "instances": _instances(found.get(end), gt_ids, image.segments, self.categories),
                }
                for end in self.sources.ends
            },
        }
        return ImageData(
            page,
            tally,
            {system: of.confused for system, of in systems.items()},
            wrong | {f"{system}/segments": of.wrong for system, of in systems.items() if of.wrong is not None},
        )

    def _gt_instances(self, image: PanopticImage, gt_ids: np.ndarray) -> GtInstances:
        if self.annotated is None:
            return visible_instances(gt_ids, image, self.categories)
        return self.annotated.read(image.image_id)

    def _of_system(
        self, system: str, fused: PanopticDataset, index: int, gt_ids: np.ndarray, found: Mapping[str, ImageInstances]
    ) -> _OfSystem:
        image, described, ends = self.sources.truth.images[index], fused.images[index], self.sources.ends
        predicted_ids = fused.load_segment_ids(described)
        outcomes = explain_segments(
            gt_ids=gt_ids,
            gt=image.segments,
            predicted_ids=predicted_ids,
            predicted=described.segments,
            categories=self.categories,
        )
        segments, rejected = (rows.read(image.image_id) for rows in self.rows_of[system])
        wrong = None
        if ends:
            _refuse_unknown_ends([*segments, *rejected], ends, f"{system}, image {image.image_id}")
            _refuse_absent_instances(rejected, found, system, image.image_id)
            score_of = {row["segment_id"]: row["score"] for row in segments}
            wrong = wrong_segments([score_of[s.segment_id] for s in described.segments], outcomes.predicted)
        page = {
            "map": segment_id_runs(predicted_ids, described.segments),
            "segments": _predicted_segments(described.segments, segments, outcomes, image, self.categories),
            "gt_outcomes": [_outcome(outcome, described.segments) for outcome in outcomes.gt],
            "rejected": [_rejected(row, self.categories) for row in rejected],
            "doubt": _doubt_runs(fused, described),
        }
        segments_confused = confused_segments(image.segments, described.segments, outcomes, self.categories)
        return _OfSystem(
            page,
            tally_outcomes(image.segments, described.segments, outcomes, self.categories),
            np.stack([outcomes.confused_px, segments_confused]),
            wrong,
        )


def _refuse_unknown_ends(rows: Sequence[Mapping[str, Any]], ends: Sequence[str], where: str) -> None:
    """Raises CacheError where a segment or candidate is of another end than these, or several of them with a +."""
    for row in rows:
        if strangers := set(row["end"].split("+")) - set(ends):
            raise CacheError(f"tables of system {where}: unknown end {clipped(min(strangers))}; {REMEDY}")


def _refuse_absent_instances(
    rejected: Sequence[Mapping[str, Any]], found: Mapping[str, ImageInstances], system: str, image_id: int
) -> None:
    """Raises CacheError where a candidate is said to be an instance that its end did not find."""
    for row in rejected:
        if row["instance"] is not None and row["instance"] >= len(found.get(row["end"], ())):
            raise CacheError(
                f"{CANDIDATES.file_name} of system {system}: image {image_id} has no instance {row['instance']} of "
                f"{clipped(row['end'])}; {REMEDY}"
            )


def runs(values: np.ndarray) -> list[int]:
    """[length, value, length, value, …] of (H, W) integers, row by row from the top left."""
    starts = run_starts(values)
    return np.stack([np.diff(starts, append=values.size), values.ravel()[starts]], axis=1).ravel().tolist()


def segment_id_runs(segment_ids: np.ndarray, segments: Sequence[Segment]) -> list[int]:
    """Runs of (H, W) segment ids, with 1 + the segment's position in the list for its id; 0 is void."""
    lengths_and_ids = runs(segment_ids)
    position = {segment.segment_id: place for place, segment in enumerate(segments, start=1)}
    lengths_and_ids[1::2] = [position.get(segment_id, 0) for segment_id in lengths_and_ids[1::2]]
    return lengths_and_ids


def tally_outcomes(
    gt: Sequence[Segment], predicted: Sequence[Segment], outcomes: ImageOutcomes, categories: CategorySet
) -> list[list[float]]:
    """What PQ counts of an image: rows [class index, size, side, outcome, number, sum of IoUs], ascending.

    size is a position in SIZES, side 0 for true segments and 1 for predicted ones, outcome a position in OUTCOMES. A
    match is counted once, with its true segment; what is ignored is not counted.
    """
    tally: dict[tuple[int, int, int, int], list[float]] = {}
    for side, segments, of_segments in ((0, gt, outcomes.gt), (1, predicted, outcomes.predicted)):
        for segment, outcome in zip(segments, of_segments, strict=True):
            if outcome.outcome == IGNORED or (side == 1 and outcome.outcome == MATCHED):
                continue
            class_index = categories.class_index(segment.category_id)
            key = class_index, size_index(segment.area_px), side, OUTCOMES.index(outcome.outcome)
            counted = tally.setdefault(key, [0, 0.0])
            counted[0] += 1
            counted[1] += outcome.iou if outcome.outcome == MATCHED else 0.0
    return [[*key, number, round(iou_sum, IOU_DIGITS)] for key, (number, iou_sum) in sorted(tally.items())]


UNEXPLAINED = "unexplained"
"""The outcome of a segment of which only the counts are known: its place is after those in OUTCOMES."""

_ANY_SIZE = -1


def tally_counts(counts: MatchCounts, categories: CategorySet) -> list[list[float]]:
    """The rows of `tally_outcomes` as far as the counts of an image tell: of no size, wrong or missed for no reason."""
    unexplained, matched = len(OUTCOMES), OUTCOMES.index(MATCHED)
    columns = (counts.category_ids, counts.tp, counts.fp, counts.fn, counts.iou_sum)
    rows: list[list[float]] = []
    for category_id, tp, fp, fn, iou_sum in zip(*(column.tolist() for column in columns), strict=True):
        of_class = [categories.class_index(category_id), _ANY_SIZE]
        listed = ((0, matched, tp, round(iou_sum, IOU_DIGITS)), (0, unexplained, fn, 0.0), (1, unexplained, fp, 0.0))
        rows += [[*of_class, *row] for row in listed if row[2]]
    return rows


def size_index(area_px: int) -> int:
    return next(place for place, (low, high) in enumerate(SIZES.values()) if low <= area_px < high)


def _described(segment: Segment, categories: CategorySet) -> Json:
    return {"class": categories.class_index(segment.category_id), "area": segment.area_px}


def _predicted_segments(
    segments: Sequence[Segment],
    rows: Sequence[Mapping[str, Any]],
    outcomes: ImageOutcomes,
    image: PanopticImage,
    categories: CategorySet,
) -> list[Json]:
    row_of = {row["segment_id"]: row for row in rows}
    return [
        _described(segment, categories)
        | {"score": _rounded(row_of[segment.segment_id]["score"]), "end": row_of[segment.segment_id]["end"]}
        | _outcome(outcome, image.segments)
        for segment, outcome in zip(segments, outcomes.predicted, strict=True)
    ]


def _outcome(outcome: SegmentOutcome, others: Sequence[Segment]) -> Json:
    """`partner` is the position among the other side's segments."""
    listed = [segment.segment_id for segment in others]
    partner = None if outcome.partner_id is None else listed.index(outcome.partner_id)
    return {"outcome": outcome.outcome, "iou": round(outcome.iou, IOU_DIGITS), "partner": partner}


def _rejected(row: Mapping[str, Any], categories: CategorySet) -> Json:
    """`instance` is the position among the end's instances, null for stuff and for what several ends found."""
    return {
        "class": categories.class_index(row["category_id"]),
        "area": row["area_px"],
        "free": row["free_px"],
        "score": _rounded(row["score"]),
        "end": row["end"],
        "reason": row["reason"],
        "instance": row["instance"],
    }


def _semantic_runs(planes: ImageSemantics | None, categories: CategorySet) -> list[int] | None:
    """Runs of 1 + class index, as the fusion of this end alone sees the image; None where the end has no semantics."""
    if planes is None:
        return None
    return runs(
        average_semantics([planes], weights=[1.0], average_of="probabilities", categories=categories).class_map.astype(
            np.int32
        )
        + 1
    )


def _disagreement_runs(
    planes: Sequence[ImageSemantics], image: PanopticImage, categories: CategorySet
) -> list[int] | None:
    """Runs of 0 to LEVELS, how much the ends' semantics differ; None with less than two ends' ones."""
    if len(planes) < 2:
        return None
    of_pixels = disagreement(planes, categories, grid="finest").at_pixels((image.height, image.width))
    return runs(np.rint(LEVELS * of_pixels).astype(np.int32))


def _doubt_runs(fused: PanopticDataset, image: PanopticImage) -> list[int] | None:
    """Runs of 0 to LEVELS, how doubtful the pixels of the map are; None where the system has no doubt."""
    return runs(np.rint(LEVELS / 255 * read_doubt(fused, image)).astype(np.int32)) if has_doubt(fused) else None


def _instances(
    image: ImageInstances | None, gt_ids: np.ndarray, gt: Sequence[Segment], categories: CategorySet
) -> list[Json] | None:
    """Best score first; `rle` are COCO's compressed counts, `partner` and `iou` the nearest true segment's. None where
    the end has no instances."""
    if image is None:
        return None
    columns = (image.category_ids.tolist(), image.scores.tolist(), image.areas_px.tolist(), image.rles)
    best = best_gt_segments(image, gt_ids=gt_ids, gt=gt)
    return [
        {
            "class": categories.class_index(category_id),
            "score": _rounded(score),
            "area": area_px,
            "rle": rle.decode(),
            "partner": partner,
            "iou": round(iou, IOU_DIGITS),
        }
        for category_id, score, area_px, rle, (partner, iou) in zip(*columns, best, strict=True)
    ]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, SCORE_DIGITS)


def photo_jpeg(photo: np.ndarray, *, long_side_px: int, quality: int) -> bytes:
    """A JPEG of the photo (H, W, 3) uint8 RGB, shrunk to the long side where it is larger."""
    height, width = photo.shape[:2]
    shrunk = shrink_photo(photo, shrunk_hw((height, width), long_side_px=long_side_px))
    bgr = cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
