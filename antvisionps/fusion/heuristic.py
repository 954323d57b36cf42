"""The panoptic map of one image from instances and a semantic map: the heuristic of Kirillov et al. 2019 (Panoptic
Segmentation, section 7), with the exact rules of panopticapi's `combine_semantic_and_instance_predictions`, and with
what others have added to it.

Instances are pasted one by one, each on the pixels that are still free, unless too much of it is taken; then every
stuff category gets the free pixels of its class, unless they are too few. Two things differ from panopticapi on
purpose: a segment without a pixel is never listed (panopticapi lists one when no threshold forbids it, and its own
scorer then rejects the file), and segment ids count 1, 2, 3 … within the image instead of being random colours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from antvisionps.fusion.nms import keep_best_boxes
from antvisionps.fusion.rejected import NO_NUMBER, NOTHING_REJECTED, RejectedCandidate, RejectedCandidates, RejectReason
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, VOID_SEGMENT_ID, CategorySet
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import Segment, measure_runs, run_starts
from antvisionps.predictions.instances import ImageInstances


@dataclass(frozen=True, slots=True)
class HeuristicRules:
    """What lives: score >= min_score, taken fraction <= max_overlap_frac, free stuff pixels >= min_stuff_area_px.

    `min_scores` (category_id → min_score) overrides min_score. `max_nms_iou`: of two instances of any categories whose
    boxes overlap by more, only the better stays; None keeps both. `min_stuff_confidence`: a connected component of a
    stuff category whose mean confidence is lower is given up. `on_top`: pairs of categories (upper, lower) of which an
    instance of the upper is pasted over one of the lower even if that came first.
    """

    min_score: float
    max_overlap_frac: float
    min_stuff_area_px: int
    max_nms_iou: float | None = None
    min_stuff_confidence: float = 0.0
    min_scores: Mapping[int, float] = field(default_factory=dict)
    on_top: frozenset[tuple[int, int]] = frozenset()


PRESETS: Mapping[str, HeuristicRules] = {
    "panopticapi": HeuristicRules(0.5, 0.5, 64 * 64),
    "detectron2": HeuristicRules(0.5, 0.5, 4096),
    "mmdet": HeuristicRules(0.6, 0.5, 4096, max_nms_iou=0.5),
    "upsnet": HeuristicRules(0.6, 0.3, 4096, max_nms_iou=0.5),
}
"""The thresholds of others: panopticapi's script, detectron2's Panoptic FPN, mmdet's HeuristicFusionHead in its
Panoptic FPN, and UPSNet's, which it uses with a panoptic head."""


class FusedSegment(NamedTuple):  # goes from process to process faster than a frozen dataclass
    """A segment of the map. Stuff has no score, and its end names every end whose semantics were averaged.
    `probability`: of being right, where the method has one."""

    segment_id: int
    category_id: int
    area_px: int
    bbox_xywh: tuple[int, int, int, int]
    score: float | None
    end: str
    probability: float | None = None


def coco_segments(fused: Iterable[FusedSegment]) -> tuple[Segment, ...]:
    """What COCO's panoptic format has of them."""
    return tuple(Segment(s.segment_id, s.category_id, s.area_px, s.bbox_xywh, is_crowd=False) for s in fused)


@dataclass(frozen=True, eq=False)
class FusedImage:
    """A map of (height, width) as its runs · segments in ascending id, which counts from 1 · the candidates that were
    rejected · `doubt` (height, width) float32 from 0 to 1, where it was asked for."""

    hw: tuple[int, int]
    runs: SegmentRuns
    segments: tuple[FusedSegment, ...]
    rejected: RejectedCandidates
    doubt: np.ndarray | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.hw))
        return f"<panoptic map of {size} px: {len(self.segments)} segments, {len(self.rejected)} rejected>"

    @cached_property
    def segment_ids(self) -> np.ndarray:
        """(height, width) int32, 0 = void."""
        return np.repeat(self.runs.segment_indices, self.runs.lengths).reshape(self.hw)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance of `source` that might enter the map."""

    category_id: int
    score: float
    area_px: int
    end: str
    source: ImageInstances
    index: int

    def reject(self, reason: RejectReason, *, free_px: int | None = None) -> RejectedCandidate:
        return RejectedCandidate(self.category_id, self.area_px, free_px, self.score, self.end, reason, self.index)


def fuse_image(
    instances: Mapping[str, ImageInstances],
    class_map: np.ndarray,
    *,
    categories: CategorySet,
    end_of_category: Mapping[int, str] | None,
    semantic_end: str,
    rules: HeuristicRules,
    confidence: np.ndarray | None = None,
) -> FusedImage:
    """The panoptic map of one image.

    `instances` is end → what it found, at the size of `class_map` (height, width) uint8 class indices; thing classes in
    the latter leave their pixels void. `end_of_category` names the end whose instances it takes; None takes all.
    `confidence` (height, width) float32 is only needed where the rules have a min_stuff_confidence. Of equal scores the
    first end's, and within an end the first, goes first. Without instances and stuff the map is all void.
    """
    alive, rejected = choose_candidates(instances, end_of_category=end_of_category, rules=rules)
    columns_first = np.zeros(class_map.shape[::-1], dtype=np.uint8 if len(alive) < 256 else np.int32)
    pasted, without_room = _paste_instances(columns_first, alive, rules)
    instance_ids = cv2.transpose(columns_first)
    free_classes = class_map
    doubtful: dict[int, int] = {}
    if rules.min_stuff_confidence > 0:
        if confidence is None:
            raise ValueError("min_stuff_confidence needs the confidence of each pixel")
        free_classes = np.where(instance_ids == VOID_SEGMENT_ID, class_map, np.uint8(VOID_CLASS_INDEX))
        doubtful = _give_up_components(free_classes, confidence, categories, rules.min_stuff_confidence)
    runs, segments, too_small = add_stuff(
        instance_ids,
        pasted,
        free_classes,
        class_map,
        doubtful,
        categories=categories,
        semantic_end=semantic_end,
        min_stuff_area_px=rules.min_stuff_area_px,
    )
    height, width = class_map.shape
    rejected = RejectedCandidates.join([rejected, RejectedCandidates.of(without_room + too_small)])
    return FusedImage((height, width), runs, segments, rejected)


def choose_candidates(
    instances: Mapping[str, ImageInstances], *, end_of_category: Mapping[int, str] | None, rules: HeuristicRules
) -> tuple[list[Candidate], RejectedCandidates]:
    """Who may enter the map, best first, and who is rejected before masks were looked at."""
    alive: list[Candidate] = []
    rejected = [NOTHING_REJECTED]
    for end, image in instances.items():
        category_ids = image.category_ids.tolist()
        is_routed_here = np.ones(len(image), dtype=bool)
        if end_of_category is not None:
            is_routed_here[:] = [end_of_category[category_id] == end for category_id in category_ids]
        least = np.array([rules.min_scores.get(category_id, rules.min_score) for category_id in category_ids])
        # 0.7 as float32 is less than 0.7.
        is_alive = is_routed_here & (image.scores >= least.astype(image.scores.dtype))
        alive += list_candidates(end, image, np.flatnonzero(is_alive))
        rejected.append(_rejected_early(end, image, np.flatnonzero(~is_alive), is_routed_here))
    alive.sort(key=lambda candidate: -candidate.score)
    if rules.max_nms_iou is not None and alive:
        boxes = np.stack([candidate.source.boxes_xywh[candidate.index] for candidate in alive])
        is_kept = keep_best_boxes(boxes, max_iou=rules.max_nms_iou).tolist()
        dropped = [c.reject(RejectReason.NMS) for c, kept in zip(alive, is_kept, strict=True) if not kept]
        alive = [candidate for candidate, kept in zip(alive, is_kept, strict=True) if kept]
        rejected.append(RejectedCandidates.of(dropped))
    return alive, RejectedCandidates.join(rejected)


def _rejected_early(
    end: str, image: ImageInstances, indices: np.ndarray, is_routed_here: np.ndarray
) -> RejectedCandidates:
    reasons = np.array([RejectReason.ROUTED_AWAY, RejectReason.LOW_SCORE], dtype=object)
    return RejectedCandidates(
        image.category_ids[indices],
        image.areas_px[indices].astype(np.int32),
        np.full(len(indices), NO_NUMBER, dtype=np.int32),
        image.scores[indices],
        np.full(len(indices), end, dtype=object),
        reasons[is_routed_here[indices].astype(np.int64)],
        indices.astype(np.int32),
    )


def list_candidates(end: str, image: ImageInstances, indices: np.ndarray | None = None) -> list[Candidate]:
    """The instances of an end at some positions, or all of them, in that order."""
    if indices is None:
        indices = np.arange(len(image))
    columns = (indices, image.category_ids[indices], image.scores[indices], image.areas_px[indices])
    return [
        Candidate(category_id, score, area_px, end, image, index)
        for index, category_id, score, area_px in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _paste_instances(
    columns_first: np.ndarray, candidates: list[Candidate], rules: HeuristicRules
) -> tuple[list[Candidate], list[RejectedCandidate]]:
    """Pastes into the (width, height) map, in order, ids from 1; returns who has which id, and who is rejected.

    The union of the accepted masks, which panopticapi measures the overlap against, is just where the map is not void.
    """
    if not candidates:
        return [], []
    from antvisionps.fusion.map_kernels import EMPTY, OVERLAPPED, PASTED, paste_masks

    runs = [candidate.source.runs for candidate in candidates]
    own = [slice(*of.first_run[one.index : one.index + 2]) for of, one in zip(runs, candidates, strict=True)]
    free_px, fates = np.zeros((2, len(candidates)), dtype=np.int64)
    paste_masks(
        np.concatenate([of.starts[of_mask] for of, of_mask in zip(runs, own, strict=True)]),
        np.concatenate([of.stops[of_mask] for of, of_mask in zip(runs, own, strict=True)]),
        np.cumsum([0, *(of_mask.stop - of_mask.start for of_mask in own)]),
        _lies_on(candidates, rules.on_top),
        rules.max_overlap_frac,
        columns_first.reshape(-1),
        free_px,
        fates,
    )
    reason_of = {OVERLAPPED: RejectReason.OVERLAP_FRAC, EMPTY: RejectReason.EMPTY}
    pasted: list[Candidate] = []
    rejected = []
    for candidate, free, fate in zip(candidates, free_px.tolist(), fates.tolist(), strict=True):
        if fate == PASTED:
            pasted.append(candidate)
        else:
            rejected.append(candidate.reject(reason_of[fate], free_px=free))
    return (pasted, rejected) if not rules.on_top else _leave_out_buried(columns_first, pasted, rejected)


def _lies_on(candidates: Sequence[Candidate], on_top: frozenset[tuple[int, int]]) -> np.ndarray:
    """(N, N) bool, whether the first is pasted over the second; (0, 0) where nobody is over anybody."""
    if not on_top:
        return np.zeros((0, 0), dtype=bool)
    category_ids = [candidate.category_id for candidate in candidates]
    return np.array([[(upper, lower) in on_top for lower in category_ids] for upper in category_ids])


def _leave_out_buried(
    columns_first: np.ndarray, pasted: list[Candidate], rejected: list[RejectedCandidate]
) -> tuple[list[Candidate], list[RejectedCandidate]]:
    """Without the instances that others were pasted over entirely; the rest are numbered without a gap."""
    is_visible = np.bincount(columns_first.ravel(), minlength=len(pasted) + 1) > 0
    is_visible[VOID_SEGMENT_ID] = True
    if not is_visible.all():
        new_id = np.cumsum(is_visible, dtype=np.int32) - 1
        columns_first[...] = new_id[columns_first]
    buried = [
        candidate.reject(RejectReason.EMPTY, free_px=0)
        for candidate, seen in zip(pasted, is_visible[1:], strict=True)
        if not seen
    ]
    return [candidate for candidate, seen in zip(pasted, is_visible[1:], strict=True) if seen], rejected + buried


def _give_up_components(
    free_classes: np.ndarray, confidence: np.ndarray, categories: CategorySet, min_confidence: float
) -> dict[int, int]:
    """Voids the 8-connected components of low mean confidence; returns class index → pixels that it lost so."""
    lost = {}
    for category in categories.stuff:
        class_index = categories.class_index(category.category_id)
        is_class = (free_classes == class_index).view(np.uint8)
        if not is_class.any():
            continue
        count, component = cv2.connectedComponents(is_class, connectivity=8)
        area_px = np.bincount(component.ravel(), minlength=count)
        mean = np.bincount(component.ravel(), weights=confidence.ravel(), minlength=count) / np.maximum(area_px, 1)
        is_doubtful = mean < min_confidence
        is_doubtful[0] = False  # what is not of this class
        free_classes[is_doubtful[component]] = VOID_CLASS_INDEX
        lost[class_index] = int(area_px[is_doubtful].sum())
    return lost


def add_stuff(
    instance_ids: np.ndarray,
    pasted: Sequence[Candidate],
    free_classes: np.ndarray,
    class_map: np.ndarray,
    doubtful: Mapping[int, int],
    *,
    categories: CategorySet,
    semantic_end: str,
    min_stuff_area_px: int,
) -> tuple[SegmentRuns, tuple[FusedSegment, ...], list[RejectedCandidate]]:
    """The whole map: void pixels go to the stuff classes, whose segments are numbered in class order.

    instance_ids (H, W) uint8 or int32 is n where the n-th of `pasted` is, from 1 on, and 0 elsewhere; free_classes
    (H, W) uint8 is the class where nobody is, or VOID_CLASS_INDEX; class_map the semantic argmax everywhere, which the
    panoptic head's free_classes need not follow. `doubtful` are the pixels that a class lost for lack of confidence.
    Returns the map's runs, its segments, and what stuff is rejected.
    """
    maps = (class_map,) if free_classes is class_map else (class_map, free_classes)
    starts = run_starts(instance_ids, *maps)
    lengths = np.diff(starts, append=class_map.size)
    owners, free, classes = (one.reshape(-1)[starts] for one in (instance_ids, free_classes, class_map))
    is_free = owners == VOID_SEGMENT_ID
    areas_px = np.bincount(classes, weights=lengths, minlength=256)
    free_areas_px = np.bincount(free[is_free], weights=lengths[is_free], minlength=256)
    described: list[tuple[int, float | None, str]] = [(c.category_id, c.score, c.end) for c in pasted]
    segment_of_class = np.zeros(256, dtype=np.int32)
    rejected = []
    for class_index, category in enumerate(categories.categories):
        area_px, free_px = int(areas_px[class_index]), int(free_areas_px[class_index])
        if category.is_thing or area_px + free_px == 0:
            continue
        reason = _reason_against_stuff(free_px, doubtful.get(class_index, 0), min_stuff_area_px)
        if reason is None:
            described.append((category.category_id, None, semantic_end))
            segment_of_class[class_index] = len(described)
        else:
            row = (category.category_id, area_px, free_px, None, semantic_end, reason, None)
            rejected.append(RejectedCandidate(*row))
    segment_ids = np.where(is_free, segment_of_class[free], owners)
    kept = run_starts(segment_ids)  # neighbours of one segment become one run
    lengths = np.diff(starts[kept], append=class_map.size).astype(np.int32)
    runs = SegmentRuns(lengths, segment_ids[kept], np.array([0, len(kept)]))
    ids = runs.segment_indices
    if len(described) <= np.iinfo(np.int16).max:
        ids = ids.astype(np.int16)  # sorted by counting
    segments = tuple(
        FusedSegment(segment_id, category_id, area_px, bbox_xywh, score, end)
        for (category_id, score, end), (segment_id, area_px, bbox_xywh) in zip(
            described, measure_runs(lengths, ids, width=class_map.shape[1]), strict=True
        )
    )
    return runs, segments, rejected


def _reason_against_stuff(free_px: int, lost_px: int, min_stuff_area_px: int) -> RejectReason | None:
    """Why a stuff class with that many free pixels, and those that it lost for lack of confidence, is no segment."""
    least_px = max(1, min_stuff_area_px)
    if free_px >= least_px:
        return None
    if free_px + lost_px == 0:
        return RejectReason.EMPTY
    return RejectReason.LOW_CONFIDENCE if free_px + lost_px >= least_px else RejectReason.AREA
