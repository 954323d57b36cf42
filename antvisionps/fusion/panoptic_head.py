"""UPSNet's panoptic head at test time (Xiong et al. 2019, UPSNet, section 3.3), from cached probabilities.

Every pixel goes to the largest of: a logit for each stuff class; for each instance, inside its box, the logit of its
class plus its mask's; and "unknown", the largest thing logit less the largest that an instance brought there. What
falls to unknown is void, and so is what no instance takes where no class has a probability. An instance whose region
is by half or more one stuff class of the semantic map becomes that stuff.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import Candidate, FusedImage, HeuristicRules, add_stuff, choose_candidates
from antvisionps.fusion.rejected import RejectedCandidate, RejectedCandidates, RejectReason
from antvisionps.fusion.segment_quality import logit
from antvisionps.fusion.semantic_average import FLOOR, SemanticAverage
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, VOID_SEGMENT_ID, CategorySet
from antvisionps.predictions.instances import ImageInstances

MIN_STUFF_SHARE = 0.5
"""Part of an instance's region that one stuff class must hold of the semantic map to take the region over."""

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class SemanticLogits:
    """(H, W) float32 logits of each class that is listed, of the best stuff and of the best thing, 0 where none is
    listed; and (H, W) int32, the best stuff's class index, of which the first wins a tie, UNKNOWN where all are 0."""

    plane_of_class: Mapping[int, np.ndarray]
    best_stuff: np.ndarray
    stuff_class: np.ndarray
    best_thing: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, class_indices: np.ndarray, *, things: int) -> "SemanticLogits":
        """`logits` (K, H, W) of classes `class_indices` (K,), of which those below `things` are things."""
        plane_of_class = dict(zip(class_indices.tolist(), logits, strict=True))
        nothing = np.zeros(logits.shape[1:], dtype=np.float32)
        best_stuff, best_thing = np.full_like(nothing, -np.inf), nothing.copy()
        stuff_class = np.full(nothing.shape, things, dtype=np.int32)
        for class_index in sorted({things, *plane_of_class}):
            plane = plane_of_class.get(class_index, nothing)
            if class_index < things:
                np.maximum(best_thing, plane, out=best_thing)
            else:
                stuff_class[plane > best_stuff] = class_index
                np.maximum(best_stuff, plane, out=best_stuff)
        stuff_class[(best_stuff <= 0) & (best_thing <= 0)] = UNKNOWN
        return cls(plane_of_class, best_stuff, stuff_class, best_thing)


@lru_cache(maxsize=1)  # `calibrate` fuses each image by many fits
def _logits_of(semantics: SemanticAverage, things: int) -> SemanticLogits:
    return SemanticLogits.of(semantics.logits, semantics.class_indices, things=things)


def panoptic_argmax(
    semantics: SemanticLogits, *, boxes_xywh: np.ndarray, instance_classes: np.ndarray, mask_logits: np.ndarray
) -> np.ndarray:
    """(H, W) int32 channels: a stuff class index; 256 + n for instance n; UNKNOWN.

    boxes_xywh (N, 4) in pixels, widened to whole ones · instance_classes (N,) · mask_logits (N, h, w), resized
    bilinearly into the boxes. The first channel wins a tie: stuff, then instances, then unknown.
    """
    best, channel = semantics.best_stuff.copy(), semantics.stuff_class.copy()
    nothing = np.zeros_like(best)
    claimed = nothing.copy()
    for index, (box, class_index) in enumerate(zip(boxes_xywh, instance_classes.tolist(), strict=True)):
        rows, columns, mask = _resize_into_box(mask_logits[index], box, hw=best.shape)
        thing = semantics.plane_of_class.get(class_index, nothing)[rows, columns]
        logit = thing + mask
        channel[rows, columns][logit > best[rows, columns]] = 256 + index
        np.maximum(best[rows, columns], logit, out=best[rows, columns])
        np.maximum(claimed[rows, columns], thing, out=claimed[rows, columns])
    channel[semantics.best_thing - claimed > best] = UNKNOWN
    return channel


def _resize_into_box(
    mask_logits: np.ndarray, box_xywh: np.ndarray, *, hw: tuple[int, ...]
) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns of the box on the image, and the logits there."""
    left, top, right, bottom = _whole_pixels(box_xywh)
    resized = cv2.resize(mask_logits, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    rows, columns = _on_image(box_xywh, hw)
    return rows, columns, resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _whole_pixels(box_xywh: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the box, widened to whole pixels, one at least."""
    left, top = np.floor(box_xywh[:2]).astype(int).tolist()
    right, bottom = np.ceil(box_xywh[:2] + box_xywh[2:]).astype(int).tolist()
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _on_image(box_xywh: np.ndarray, hw: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of the widened box that lie on the image."""
    left, top, right, bottom = _whole_pixels(box_xywh)
    y0, x0 = max(top, 0), max(left, 0)
    return slice(y0, max(y0, min(bottom, hw[0]))), slice(x0, max(x0, min(right, hw[1])))


def fuse_image_by_head(
    instances: Mapping[str, ImageInstances],
    semantics: SemanticAverage,
    *,
    categories: CategorySet,
    end_of_category: Mapping[int, str] | None,
    rules: HeuristicRules,
) -> FusedImage:
    """The panoptic map of one image; arguments as those of the heuristic's `fuse_image`.

    Of the rules it takes the scores, the NMS, the overlap (within each category) and the area of stuff. Raises
    CacheError where instances have no mask probabilities.
    """
    class_map = semantics.class_map
    candidates, rejected = choose_candidates(instances, end_of_category=end_of_category, rules=rules)
    kept, overlapping = _drop_overlapping(candidates, class_map.shape, rules.max_overlap_frac)
    channel = panoptic_argmax(
        _logits_of(semantics, len(categories.things)),
        boxes_xywh=np.array([c.source.boxes_xywh[c.index] for c in kept], dtype=np.float64).reshape(-1, 4),
        instance_classes=np.array([categories.class_index(c.category_id) for c in kept], dtype=np.int64),
        mask_logits=_mask_logits(kept),
    )
    instance_ids, pasted, outvoted = _give_regions(channel, class_map, kept, things=len(categories.things))
    is_stuff = (channel >= 0) & (channel < 256)
    stuff_classes = np.where(is_stuff, channel, VOID_CLASS_INDEX).astype(np.uint8)
    runs, segments, too_small = add_stuff(
        instance_ids,
        pasted,
        stuff_classes,
        class_map,
        {},
        categories=categories,
        semantic_end=semantics.end,
        min_stuff_area_px=rules.min_stuff_area_px,
    )
    return FusedImage(
        (semantics.height, semantics.width),
        runs,
        segments,
        RejectedCandidates.join([rejected, RejectedCandidates.of(overlapping + outvoted + too_small)]),
    )


def _mask_logits(candidates: Sequence[Candidate]) -> np.ndarray:
    grids = []
    for candidate in candidates:
        if candidate.source.mask_probs is None:
            raise CacheError(
                f"image {candidate.source.image_id}: end {candidate.end} has no mask_probs, which the panoptic head "
                "needs and imported ends lack; fuse by the heuristic"
            )
        grids.append(candidate.source.mask_probs[candidate.index])
    return logit(np.array(grids) / np.float32(255), floor=FLOOR) if grids else np.zeros((0, 1, 1), dtype=np.float32)


def _drop_overlapping(
    candidates: list[Candidate], hw: tuple[int, ...], max_overlap_frac: float
) -> tuple[list[Candidate], list[RejectedCandidate]]:
    """Walks best first over a canvas for each category, and drops whose mask is taken by more than max_overlap_frac.
    A mask that has its category to itself is not drawn."""
    count = Counter(candidate.category_id for candidate in candidates)
    canvas_of: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(hw[::-1], dtype=bool))
    kept, rejected = [], []
    for candidate in candidates:
        if candidate.area_px == 0:
            rejected.append(candidate.reject(RejectReason.EMPTY, free_px=0))
        elif count[candidate.category_id] == 1:
            kept.append(candidate)
        else:
            left, top, mask = candidate.source.runs.crop(candidate.index)
            window = canvas_of[candidate.category_id][left : left + mask.shape[0], top : top + mask.shape[1]]
            taken_px = int(np.count_nonzero(mask & window))
            if taken_px / candidate.area_px > max_overlap_frac:
                rejected.append(candidate.reject(RejectReason.OVERLAP_FRAC, free_px=candidate.area_px - taken_px))
            else:
                window |= mask
                kept.append(candidate)
    return kept, rejected


def _give_regions(
    channel: np.ndarray, class_map: np.ndarray, candidates: list[Candidate], *, things: int
) -> tuple[np.ndarray, list[Candidate], list[RejectedCandidate]]:
    """Ids of the instances that keep their region; regions that stuff takes over get its class in `channel`."""
    instance_ids = np.full(channel.shape, VOID_SEGMENT_ID, dtype=np.int32)
    pasted, rejected = [], []
    for index, candidate in enumerate(candidates):
        box = _on_image(candidate.source.boxes_xywh[candidate.index], channel.shape)
        region = channel[box] == 256 + index
        votes = np.bincount(class_map[box][region], minlength=things + 1)
        if votes.sum() == 0:
            rejected.append(candidate.reject(RejectReason.EMPTY, free_px=0))
        elif votes[things:].max() >= MIN_STUFF_SHARE * votes.sum():
            channel[box][region] = things + int(votes[things:].argmax())
            rejected.append(candidate.reject(RejectReason.OUTVOTED, free_px=int(votes.sum())))
        else:
            pasted.append(candidate)
            instance_ids[box][region] = len(pasted)
    return instance_ids, pasted, rejected
