"""What did not make it into a panoptic map, and why."""

from typing import NamedTuple

from antvisionps.predictions.fused_files import RejectReason


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
