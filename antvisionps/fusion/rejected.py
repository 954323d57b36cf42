"""What did not make it into a panoptic map, and why. A COCO image has two hundred of them, so they are columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from antvisionps.predictions.fused_files import RejectReason

NO_NUMBER = -1
"""What stands for None in a column of whole numbers."""


class RejectedCandidate(NamedTuple):
    """An instance or stuff region that did not make it. `free_px`: what nobody had taken of it, None if never asked ·
    `instance`: its position among what its end found in the image, None of stuff and of what several ends found."""

    category_id: int
    area_px: int
    free_px: int | None
    score: float | None
    end: str
    reason: RejectReason
    instance: int | None


@dataclass(frozen=True, eq=False)
class RejectedCandidates:
    """N of them. category_ids, areas_px, free_px and instances (N,) int32 and scores (N,) float32, where -1, or NaN,
    stands for None; ends and reasons (N,) of objects."""

    category_ids: np.ndarray
    areas_px: np.ndarray
    free_px: np.ndarray
    scores: np.ndarray
    ends: np.ndarray
    reasons: np.ndarray
    instances: np.ndarray

    @classmethod
    def of(cls, candidates: Iterable[RejectedCandidate]) -> RejectedCandidates:
        columns = list(zip(*candidates, strict=True)) or [()] * len(RejectedCandidate._fields)
        category_ids, areas_px, free_px, scores, ends, reasons, instances = columns
        return cls(
            np.array(category_ids, dtype=np.int32),
            np.array(areas_px, dtype=np.int32),
            np.array([NO_NUMBER if pixels is None else pixels for pixels in free_px], dtype=np.int32),
            np.array([np.nan if score is None else score for score in scores], dtype=np.float32),
            np.array(ends, dtype=object),
            np.array(reasons, dtype=object),
            np.array([NO_NUMBER if place is None else place for place in instances], dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[RejectedCandidate]:
        numbers = (self.category_ids, self.areas_px, self.free_px, self.scores, self.instances)
        columns = (*(column.tolist() for column in numbers), self.ends, self.reasons)
        for category_id, area_px, free_px, score, instance, end, reason in zip(*columns, strict=True):
            yield RejectedCandidate(
                category_id,
                area_px,
                None if free_px == NO_NUMBER else free_px,
                None if np.isnan(score) else score,
                end,
                reason,
                None if instance == NO_NUMBER else instance,
            )

    @classmethod
    def join(cls, parts: Sequence[RejectedCandidates]) -> RejectedCandidates:
        """Each part's after those of the parts before."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


NOTHING_REJECTED = RejectedCandidates.of(())
