"""What did not make it into a panoptic map, and why. A COCO image has two hundred of them, so they are columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, overload

import numpy as np

from antvisionps.arrow import Labels

NO_NUMBER = -1
"""What stands for None in a column of whole numbers."""


class FallReason(StrEnum):
    """Why a candidate is not in the panoptic map, the first that applies in this order."""

    ROUTED_AWAY = "routed_away"
    MERGED = "merged"
    LOW_SCORE = "low_score"
    NMS = "nms"
    EMPTY = "empty"
    OVERLAP_FRAC = "overlap_frac"
    OUTVOTED = "outvoted"
    LOW_CONFIDENCE = "low_confidence"
    AREA = "area"


class FallenCandidate(NamedTuple):
    """An instance or stuff region that did not make it. `free_px`: what nobody had taken of it, None if never asked ·
    `instance`: its position among what its end found in the image, None of stuff and of what several ends found."""

    category_id: int
    area_px: int
    free_px: int | None
    score: float | None
    end: str
    reason: FallReason
    instance: int | None


@dataclass(frozen=True, eq=False)
class FallenCandidates(Sequence[FallenCandidate]):
    """N of them. category_ids, areas_px, free_px and instances (N,) int32 and scores (N,) float32, where -1, or NaN,
    stands for None; ends and reasons (N)."""

    category_ids: np.ndarray
    areas_px: np.ndarray
    free_px: np.ndarray
    scores: np.ndarray
    ends: Labels
    reasons: Labels
    instances: np.ndarray

    @classmethod
    def of(cls, candidates: Iterable[FallenCandidate]) -> FallenCandidates:
        columns = list(zip(*candidates, strict=True)) or [()] * len(FallenCandidate._fields)
        category_ids, areas_px, free_px, scores, ends, reasons, instances = columns
        return cls(
            np.array(category_ids, dtype=np.int32),
            np.array(areas_px, dtype=np.int32),
            np.array([NO_NUMBER if pixels is None else pixels for pixels in free_px], dtype=np.int32),
            np.array([np.nan if score is None else score for score in scores], dtype=np.float32),
            Labels.of(ends),
            Labels.of(reasons),
            np.array([NO_NUMBER if place is None else place for place in instances], dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> FallenCandidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FallenCandidate]: ...
    def __getitem__(self, index: int | slice) -> FallenCandidate | Sequence[FallenCandidate]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        free_px, score, instance = int(self.free_px[index]), float(self.scores[index]), int(self.instances[index])
        return FallenCandidate(
            int(self.category_ids[index]),
            int(self.areas_px[index]),
            None if free_px == NO_NUMBER else free_px,
            None if np.isnan(score) else score,
            self.ends[index],
            FallReason(self.reasons[index]),
            None if instance == NO_NUMBER else instance,
        )

    def __add__(self, others: FallenCandidates) -> FallenCandidates:
        if not len(others) or not len(self):
            return self if len(self) else others
        joined: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            pair = [getattr(self, name), getattr(others, name)]
            joined[name] = Labels.join(pair) if isinstance(pair[0], Labels) else np.concatenate(pair)
        return FallenCandidates(**joined)


NOTHING_FELL = FallenCandidates.of(())
