"""The panoptic map of one image from the segments of all ends, each kept by its probability of being right.

1. The instances of all ends are grouped by category and IoU, and each group's masks are averaged (`mask_union`).
2. A regression fitted on held-out images turns what is known of a group into its probability: the score of each end, or
   that it found nothing there; how well the members agree; its area; what the averaged semantics say of its pixels; how
   much it overlaps with a better one, whose copy it may be; which part of it better ones cover.
3. The instances that reach the least probability of their category are pasted: by the heuristic, the most probable
   first, or by UPSNet's panoptic head, whose argmax settles who has a pixel that several claim.
4. Each stuff segment that is left gets a probability from its area and the semantics; one below the least probability
   of its category becomes void.

`segment_quality` tells the regression and the least probabilities. The order of the ends changes no pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.documents import Document, Fraction
from antvisionps.fusion.heuristic import Candidate, FusedImage, FusedSegment, HeuristicRules, fuse_image
from antvisionps.fusion.mask_union import JoinedInstances
from antvisionps.fusion.panoptic_head import fuse_image_by_head
from antvisionps.fusion.rejected import RejectedCandidate, RejectedCandidates, RejectReason
from antvisionps.fusion.segment_quality import QualityModel, logit
from antvisionps.fusion.semantic_average import SemanticAverage
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segment_runs import SegmentRuns
from antvisionps.panoptic.segments import run_starts
from antvisionps.predictions.instances import ImageInstances

SCORE_FLOOR, MEAN_FLOOR = 1e-3, 1e-2
"""Of scores, and of probabilities averaged over a segment, before their logit is taken."""


PasteBy = Literal["heuristic", "panoptic_head"]


class Acceptance(Document):
    """What is fitted for some ends: the regressions, and the least probability of each category, thing or stuff; and
    how instances are pasted, which it was fitted for."""

    paste_by: PasteBy
    things: QualityModel
    stuff: QualityModel
    min_probabilities: dict[int, Fraction]


@dataclass(frozen=True, eq=False)
class SegmentFeatures:
    """Of N segments: category_ids (N,) int64 and values (N, F) float64."""

    category_ids: np.ndarray
    values: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["SegmentFeatures"]) -> "SegmentFeatures":
        return cls(np.concatenate([part.category_ids for part in parts]), np.concatenate([p.values for p in parts]))


def thing_features(
    joined: JoinedInstances, average: SemanticAverage, *, ends: Sequence[str], categories: CategorySet
) -> dict[str, SegmentFeatures]:
    """Of the instances under each name of `joined`: for each end the logit of its score and 1, or 0 and 0; the log of
    the area as a part of the image; the logit of the mean averaged probability of the category; the agreement; the
    overlap with a better one of the category; the part that better ones cover. They are `thing_feature_count`."""
    features, beside_better = {}, _beside_better(joined.instances)
    for name, image in joined.instances.items():
        groups = joined.members[name]
        of_groups = _scores_of_ends(groups, ends), _measures(image, average, categories), _agreement(groups)
        values = np.hstack([*of_groups, beside_better[name]])
        features[name] = SegmentFeatures(image.category_ids.astype(np.int64), values)
    return features


def thing_feature_count(ends: int) -> int:
    return 2 * ends + 5


def _scores_of_ends(groups: Sequence[Sequence[Candidate]], ends: Sequence[str]) -> np.ndarray:
    """(N, 2 E): logit of the score and 1 of each end that is a member, else 0 and 0."""
    values = np.zeros((len(groups), len(ends), 2))
    for row, group in enumerate(groups):
        for member in group:
            values[row, ends.index(member.end)] = member.score, 1.0
    is_member = values[..., 1] > 0
    values[..., 0] = np.where(is_member, logit(values[..., 0], floor=SCORE_FLOOR), 0.0)
    return values.reshape(len(groups), 2 * len(ends))


def _measures(image: ImageInstances, average: SemanticAverage, categories: CategorySet) -> np.ndarray:
    """(N, 2): log of the area as a part of the image, logit of the category's mean probability on the mask."""
    values = np.zeros((len(image), 2))
    for index, category_id in enumerate(image.category_ids.tolist()):
        left, top, mask = image.runs.crop(index)
        rows, columns = slice(top, top + mask.shape[1]), slice(left, left + mask.shape[0])
        on_mask = average.probabilities(categories.class_index(category_id), rows, columns).T[mask]
        values[index] = len(on_mask), on_mask.mean(dtype=np.float64) if len(on_mask) else 0.0
    return _log_and_logit(values, average)


def _log_and_logit(values: np.ndarray, average: SemanticAverage) -> np.ndarray:
    pixels = average.height * average.width
    return np.stack([np.log(np.maximum(values[:, 0], 1) / pixels), logit(values[:, 1], floor=MEAN_FLOOR)], axis=1)


def _agreement(groups: Sequence[Sequence[Candidate]]) -> np.ndarray:
    """(N, 1): the mean IoU of every two members' masks; 0 of one alone."""
    values = np.zeros((len(groups), 1))
    for row, group in enumerate(groups):
        if len(group) > 1:
            rles = [{"size": [m.source.height, m.source.width], "counts": m.source.rles[m.index]} for m in group]
            ious = coco_mask.iou(rles, rles, [0] * len(rles))
            values[row] = ious[np.triu_indices(len(group), 1)].mean()
    return values


def _beside_better(instances: Mapping[str, ImageInstances]) -> dict[str, np.ndarray]:
    """name → (N, 2): the largest IoU of each mask with one of its category and a better score, 0 without such; the
    part of it that all of better scores together cover, whatever their category."""
    found = [(image, index) for image in instances.values() for index in range(len(image))]
    values = np.stack([_overlap_with_better(found), _covered_by_better(found)], axis=1)
    bounds = pairwise(np.cumsum([0, *map(len, instances.values())]).tolist())
    return {name: values[first:stop] for name, (first, stop) in zip(instances, bounds, strict=True)}


def _overlap_with_better(found: Sequence[tuple[ImageInstances, int]]) -> np.ndarray:
    rles = [{"size": [image.height, image.width], "counts": image.rles[index]} for image, index in found]
    scores = np.array([image.scores[index] for image, index in found])
    category_ids = np.array([image.category_ids[index] for image, index in found])
    values = np.zeros(len(found))
    for category_id in np.unique(category_ids):
        places = np.flatnonzero(category_ids == category_id)
        own = [rles[place] for place in places]
        is_better = scores[places] > scores[places, None]
        ious = coco_mask.iou(own, own, [0] * len(own))
        values[places] = np.where(is_better, ious, 0).max(axis=1)
    return values


def _covered_by_better(found: Sequence[tuple[ImageInstances, int]]) -> np.ndarray:
    """Paints the masks, best first; those of one score at once, so that their order does not count."""
    values = np.zeros(len(found))
    painted = np.zeros((found[0][0].width, found[0][0].height) if found else (0, 0), dtype=bool)

    def score(place: int) -> float:
        image, index = found[place]
        return float(image.scores[index])

    for _, places in groupby(sorted(range(len(found)), key=score, reverse=True), key=score):
        of_one_score = [(place, *found[place][0].runs.crop(found[place][1])) for place in places]
        for place, left, top, mask in of_one_score:
            under = painted[left : left + mask.shape[0], top : top + mask.shape[1]]
            values[place] = np.count_nonzero(under & mask) / max(np.count_nonzero(mask), 1)
        for _, left, top, mask in of_one_score:
            painted[left : left + mask.shape[0], top : top + mask.shape[1]] |= mask
    return values


def calibrate_scores(
    joined: JoinedInstances, features: Mapping[str, SegmentFeatures], model: QualityModel
) -> JoinedInstances:
    """The same instances with their probabilities as scores."""

    def calibrated(name: str, image: ImageInstances) -> ImageInstances:
        probs = model.probabilities(features[name].values, features[name].category_ids)
        return replace(image, scores=probs.astype(np.float32))

    return replace(joined, instances={name: calibrated(name, image) for name, image in joined.instances.items()})


def stuff_features(fused: FusedImage, average: SemanticAverage, categories: CategorySet) -> SegmentFeatures:
    """Of each stuff segment, in ascending id: the log of its area as a part of the image, and the logit of the mean
    averaged probability of its category on its pixels."""
    stuff = [segment for segment in fused.segments if segment.category_id not in categories.thing_ids]
    ids = fused.segment_ids
    values = np.zeros((len(stuff), 2))
    for row, segment in enumerate(stuff):
        left, top, width, height = segment.bbox_xywh
        box = slice(top, top + height), slice(left, left + width)
        probs = average.probabilities(categories.class_index(segment.category_id), *box)
        values[row] = segment.area_px, probs[ids[box] == segment.segment_id].mean(dtype=np.float64)
    return SegmentFeatures(np.array([s.category_id for s in stuff], dtype=np.int64), _log_and_logit(values, average))


def fuse_by_probability(
    joined: JoinedInstances,
    features: Mapping[str, SegmentFeatures],
    average: SemanticAverage,
    *,
    acceptance: Acceptance,
    categories: CategorySet,
    rules: HeuristicRules,
) -> FusedImage:
    """The panoptic map of one image by steps 2 to 4, from its `thing_features`. Of the rules it takes the overlap."""
    calibrated = calibrate_scores(joined, features, acceptance.things)
    least = acceptance.min_probabilities
    fused = paste_accepted(
        calibrated, average, paste_by=acceptance.paste_by, least=least, categories=categories, rules=rules
    )
    stuff = stuff_features(fused, average, categories)
    return accept_stuff(fused, acceptance.stuff.probabilities(stuff.values, stuff.category_ids), acceptance)


def paste_accepted(
    calibrated: JoinedInstances,
    average: SemanticAverage,
    *,
    paste_by: PasteBy,
    least: Mapping[int, float],
    categories: CategorySet,
    rules: HeuristicRules,
) -> FusedImage:
    """Step 3: the instances that reach the least probability of their category, and all stuff."""
    rules = replace(rules, min_score=0.0, min_scores=least, min_stuff_area_px=0)
    if paste_by == "panoptic_head":
        fuse = partial(fuse_image_by_head, calibrated.instances, average)
    else:
        fuse = partial(fuse_image, calibrated.instances, average.class_map, semantic_end=average.end)
    return fuse(categories=categories, end_of_category=None, rules=rules)


def accept_stuff(fused: FusedImage, probabilities: np.ndarray, acceptance: Acceptance) -> FusedImage:
    """Step 4, from the probabilities of the stuff segments in ascending id. The probability of a thing is its score."""
    of_stuff = iter(probabilities.tolist())
    kept: list[FusedSegment] = []
    rejected: list[RejectedCandidate] = []
    new_id = np.zeros(1 + len(fused.segments), dtype=np.int32)
    for segment in fused.segments:
        probability = segment.score if segment.score is not None else next(of_stuff)
        if segment.score is None and probability < acceptance.min_probabilities[segment.category_id]:
            why = RejectReason.IMPROBABLE
            area_px = segment.area_px
            rejected.append(RejectedCandidate(segment.category_id, area_px, area_px, None, segment.end, why, None))
        else:
            new_id[segment.segment_id] = len(kept) + 1
            kept.append(segment._replace(segment_id=len(kept) + 1, probability=probability))
    both = RejectedCandidates.join([fused.rejected, RejectedCandidates.of(rejected)])
    return FusedImage(fused.hw, _renumber(fused.runs, new_id), tuple(kept), both)


def _renumber(runs: SegmentRuns, new_id: np.ndarray) -> SegmentRuns:
    """The runs of one image under other ids (old → new); neighbours of one segment become one."""
    ids = new_id[runs.segment_indices]
    starts = run_starts(ids)
    lengths = np.add.reduceat(runs.lengths, starts).astype(np.int32)
    return SegmentRuns(lengths, ids[starts], np.array([0, len(starts)]))
