"""The instances of all ends joined to one list: weighted boxes fusion (Solovyev, Wang, Gabruseva 2021, "Weighted boxes
fusion: Ensembling boxes from different object detection models", Image and Vision Computing 107) of masks.

Instances are taken best first. One joins the group of its category whose first member's mask overlaps its own most, if
the IoU is above a limit; otherwise it begins a group. A group holds at most one instance of each end, because an end
tells its own instances apart. Each group becomes one instance. With w_i the weight of member i's end, s_i its score,
and means weighted by w_i · s_i:

- mask: the pixels where the mean of the members' mask probabilities is a half or more. A member's probability at a
  pixel is its `mask_probs` stretched over its box, bilinear, zero outside. The cached mask says what is foreground:
  inside it the probability is raised to at least 128 / 255, outside lowered to at most 127 / 255. Without mask_probs it
  is 1 and 0.
- box and mask_probs: the mean box, and the mean of the stretched mask_probs at the cells of a grid over it.
- score: Σ w_i · s_i over the members / Σ w over all ends. With equal weights that is the paper's: the mean score of the
  T members times T / N for N ends. What one end alone finds keeps only that end's share of its score.

One end alone is left as it is. Ends that agree to the last byte give one copy of what they found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.fusion.heuristic import Candidate, list_candidates
from antvisionps.fusion.rejected import NO_NUMBER, RejectedCandidates, RejectReason
from antvisionps.panoptic.rle import encode_crop
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.schema import MASK_PROBS_SIZE

LEAST_INSIDE, MOST_OUTSIDE = 128.0, 127.0
"""8-bit mask probabilities on the two sides of a half."""


@dataclass(frozen=True)
class UnionRules:
    """`weight_of_end`: how much an end's masks and scores count; an end of weight 0 as if absent · `min_iou`: masks of
    a category that overlap by more are of one object."""

    weight_of_end: Mapping[str, float]
    min_iou: float


@dataclass(frozen=True)
class JoinedInstances:
    """`instances`: name → instances; what several ends found is under their names joined ("e_ups+lwl_htc"). `rejected`:
    what was merged or routed away. `members`: name → of each instance, what it was joined from. `positions`: end →
    where its remaining instances stood in its own list; None if nothing moved."""

    instances: Mapping[str, ImageInstances]
    rejected: RejectedCandidates
    members: Mapping[str, Sequence[Sequence[Candidate]]] = field(default_factory=dict)
    positions: Mapping[str, Sequence[int]] | None = None

    def at_their_ends(self, rejected: RejectedCandidates) -> RejectedCandidates:
        """Of `instances`, or stuff, with the positions where the ends themselves have them."""
        if self.positions is None:
            return rejected
        instances = []
        for end, index in zip(rejected.ends, rejected.instances.tolist(), strict=True):
            own = self.positions.get(end)  # of several ends nobody has it
            instances.append(NO_NUMBER if own is None or index == NO_NUMBER else own[index])
        return replace(rejected, instances=np.array(instances, dtype=np.int32))


def join_instances(instances: Mapping[str, ImageInstances], rules: UnionRules) -> JoinedInstances:
    """Joins end → instances of one image.

    Equal scores keep the order of the ends, and of the instances within an end; of groups that an instance overlaps
    equally it joins the first. Raises CacheError on a bad mask.
    """
    present = {end: image for end, image in instances.items() if rules.weight_of_end[end] > 0}
    absent = [found for end, image in instances.items() if end not in present for found in list_candidates(end, image)]
    routed_away = [candidate.reject(RejectReason.ROUTED_AWAY) for candidate in absent]
    if len(present) <= 1:
        own = {end: [[found] for found in list_candidates(end, image)] for end, image in present.items()}
        return JoinedInstances(present, RejectedCandidates.of(routed_away), own)
    total = sum(rules.weight_of_end[end] for end in present)
    alone: dict[str, list[int]] = {end: [] for end in present}
    shared: dict[str, list[list[Candidate]]] = {}
    for group in group_candidates(present, min_iou=rules.min_iou):
        if len(group) == 1:
            alone[group[0].end].append(group[0].index)
        else:
            members = sorted(group, key=lambda member: list(present).index(member.end))
            shared.setdefault("+".join(member.end for member in members), []).append(members)
    alone = {end: sorted(indices) for end, indices in alone.items()}
    joined, groups_of = {}, {}
    for end, image in present.items():
        kept, share = image.take(alone[end]), np.float64(rules.weight_of_end[end] / total)
        joined[end] = replace(kept, scores=(kept.scores * share).astype(np.float32))
        groups_of[end] = [[found] for found in list_candidates(end, image, np.array(alone[end], dtype=np.int64))]
    for name, groups in sorted(shared.items()):
        groups_of[name] = sorted(groups, key=lambda group: -_weigh(group, rules.weight_of_end))
        joined[name] = _average_groups(groups_of[name], rules.weight_of_end, total)
    merged = [member.reject(RejectReason.MERGED) for groups in shared.values() for group in groups for member in group]
    return JoinedInstances(joined, RejectedCandidates.of(routed_away + merged), groups_of, alone)


def group_candidates(instances: Mapping[str, ImageInstances], *, min_iou: float) -> Iterator[list[Candidate]]:
    """The instances of several ends, each in one group; by category, the groups by their first member, their best."""
    of_category: dict[int, list[Candidate]] = {}
    for end, image in instances.items():
        for candidate in list_candidates(end, image):
            of_category.setdefault(candidate.category_id, []).append(candidate)
    for _, candidates in sorted(of_category.items()):
        candidates.sort(key=lambda candidate: -candidate.score)
        if len({candidate.end for candidate in candidates}) > 1:
            yield from _group_category(candidates, min_iou)
        else:
            yield from ([candidate] for candidate in candidates)


def _group_category(candidates: Sequence[Candidate], min_iou: float) -> Iterator[list[Candidate]]:
    rles = [{"size": [c.source.height, c.source.width], "counts": c.source.rles[c.index]} for c in candidates]
    iou = coco_mask.iou(rles, rles, [0] * len(rles))
    groups: dict[int, list[Candidate]] = {}
    for position, candidate in enumerate(candidates):
        open_to_it = [
            first
            for first in np.flatnonzero(iou[:position, position] > min_iou).tolist()
            if first in groups and all(member.end != candidate.end for member in groups[first])
        ]
        if open_to_it:
            groups[max(open_to_it, key=lambda first: iou[first, position])].append(candidate)
        else:
            groups[position] = [candidate]
    yield from groups.values()


def _weigh(group: Sequence[Candidate], weight_of_end: Mapping[str, float]) -> float:
    return sum(weight_of_end[member.end] * member.score for member in group)


def _average_groups(
    groups: Sequence[Sequence[Candidate]], weight_of_end: Mapping[str, float], total: float
) -> ImageInstances:
    image = groups[0][0].source
    weighted = [[weight_of_end[member.end] * member.score for member in group] for group in groups]
    averages = [_average(group, scores) for group, scores in zip(groups, weighted, strict=True)]
    boxes_xywh, rles, mask_probs = zip(*averages, strict=True)
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.array([group[0].category_id for group in groups], dtype=np.int32),
        scores=np.array([sum(scores) / total for scores in weighted], dtype=np.float32),
        boxes_xywh=np.array(boxes_xywh, dtype=np.float32),
        rles=list(rles),
        mask_probs=np.stack(mask_probs),
    )


def _average(group: Sequence[Candidate], weighted_scores: Sequence[float]) -> tuple[np.ndarray, bytes, np.ndarray]:
    """bbox_xywh, COCO compressed counts and mask_probs of the mean."""
    shares = np.maximum(weighted_scores, 0) if max(weighted_scores) > 0 else np.ones(len(group))
    shares = shares / shares.sum()
    crops = [member.source.runs.crop(member.index) for member in group]
    planes = [_plane_of(member, crop) for member, crop in zip(group, crops, strict=True)]
    boxes = np.array([member.source.boxes_xywh[member.index] for member in group], dtype=np.float64)
    box = shares @ boxes

    left, top = min(x for x, _, _ in crops), min(y for _, y, _ in crops)
    right = max(x + mask.shape[0] for x, _, mask in crops)
    bottom = max(y + mask.shape[1] for _, y, mask in crops)
    mean = np.zeros((right - left, bottom - top), dtype=np.float32)
    pixels = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    for share, plane, (x, y, mask) in zip(shares, planes, crops, strict=True):
        stretched = plane.at(*pixels)
        probs = np.minimum(stretched, MOST_OUTSIDE)
        own = slice(x - left, x - left + mask.shape[0]), slice(y - top, y - top + mask.shape[1])
        probs[own][mask] = np.maximum(stretched[own][mask], LEAST_INSIDE)
        mean += np.float32(share) * probs
    mask = mean >= 255 / 2

    cells = (np.arange(MASK_PROBS_SIZE) + 0.5) / MASK_PROBS_SIZE
    x, y = box[0] + cells * box[2], box[1] + cells * box[3]
    grid = sum(share * plane.at(x, y) for share, plane in zip(shares, planes, strict=True))
    image = group[0].source
    rle = encode_crop(left, top, mask, height=image.height, width=image.width)
    return box, rle, np.rint(grid).astype(np.uint8).T


@dataclass(frozen=True, eq=False)
class _Plane:
    """values (columns, rows), 255 = 1, stretched over the box from (left, top), transposed as masks' crops are."""

    values: np.ndarray
    left: float
    top: float
    width: float
    height: float

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(len(x), len(y)) float32 at points in pixels: bilinear between the centres of the cells, zero beyond."""
        framed = np.zeros((self.values.shape[0] + 2, self.values.shape[1] + 2), dtype=np.float32)
        framed[1:-1, 1:-1] = self.values
        columns, frac = _between(x, self.left, self.width, cells=self.values.shape[0])
        along = framed[columns] * (1 - frac)[:, None] + framed[columns + 1] * frac[:, None]
        rows, frac = _between(y, self.top, self.height, cells=self.values.shape[1])
        return along[:, rows] * (1 - frac) + along[:, rows + 1] * frac


def _between(at: np.ndarray, start: float, length: float, *, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The framed cell before each point, and its way from that one's centre to the next."""
    position = np.clip((at - start) / length * cells + 0.5, 0, cells + 1)
    before = np.minimum(position.astype(np.int64), cells)
    return before, (position - before).astype(np.float32)


def _plane_of(member: Candidate, crop: tuple[int, int, np.ndarray]) -> _Plane:
    """What the end says of each pixel; of an end that keeps no mask_probs, or a box without area, the mask itself."""
    box = member.source.boxes_xywh[member.index].astype(np.float64).tolist()
    if member.source.mask_probs is None or min(box[2:]) <= 0:
        left, top, mask = crop
        return _Plane(mask * np.uint8(255), left, top, *mask.shape)
    return _Plane(member.source.mask_probs[member.index].T, *box)
