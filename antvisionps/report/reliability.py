"""Of each image how much is wrong of what was said with a confidence: what a bin of a reliability diagram leads to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from antvisionps.evaluation.average_precision import match_image
from antvisionps.evaluation.reliability import BINS, Reliability, instance_reliability
from antvisionps.evaluation.segment_outcomes import IGNORED, MATCHED, SegmentOutcome
from antvisionps.evaluation.semantic_reliability import semantic_reliability
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import GtInstances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.semantic import ImageSemantics

Json = dict[str, Any]
WRONG_ID = "wrong"
"""What the page's script of bins says that it is."""

WrongOf = dict[str, np.ndarray]
"""Name/of, as in reliability.csv, → (15,) how many in each bin are wrong."""


class WrongByBin:
    """What is wrong in the images that were added, in their order."""

    def __init__(self) -> None:
        self._images = 0
        self._found: dict[str, list[list[int]]] = {}

    def add(self, wrong: Mapping[str, np.ndarray]) -> None:
        for key, of_bins in wrong.items():
            listed = self._found.setdefault(key, [[] for _ in range(BINS)])
            for place in np.flatnonzero(of_bins).tolist():
                listed[place] += [self._images, int(of_bins[place])]
        self._images += 1

    def document(self) -> Json:
        """Of each name/of and bin [place of an image, number, …], of the images that have some."""
        return {"id": WRONG_ID, "of": self._found}


def wrong_of_ends(
    instances: Mapping[str, ImageInstances],
    semantics: Mapping[str, ImageSemantics],
    *,
    gt: GtInstances,
    gt_ids: np.ndarray,
    image: PanopticImage,
    categories: CategorySet,
) -> WrongOf:
    """Of what the ends say of an image, whose (H, W) segment ids these are."""
    of_each = {
        "instances": {end: instance_reliability(match_image(one, gt)) for end, one in instances.items()},
        "semantics": {end: semantic_reliability(one, gt_ids, image, categories) for end, one in semantics.items()},
    }
    return {f"{end}/{of}": _wrong(found) for of, of_ends in of_each.items() for end, found in of_ends.items()}


def wrong_segments(scores: Sequence[float | None], outcomes: Sequence[SegmentOutcome]) -> np.ndarray:
    """(15,) of a system's segments with scores."""
    pairs = zip(scores, outcomes, strict=True)
    known = [(score, of.outcome == MATCHED) for score, of in pairs if score is not None and of.outcome != IGNORED]
    confidence, is_right = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return _wrong(Reliability.of(confidence, is_right > 0))


def _wrong(reliability: Reliability) -> np.ndarray:
    return reliability.count - reliability.right
