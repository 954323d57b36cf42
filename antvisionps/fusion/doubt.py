"""How doubtful each pixel of a panoptic map is, for those who label or review.

    doubt(x) = 1 - min(p_s, p(c_s, x))

s is the segment of pixel x and c_s its category; p_s is the probability that s is right, which method auto fits, and
p(c, x) the averaged probability of category c. Segment and pixel are both right no more often than the rarer of the two
(Fréchet's bound). Void is 1.
"""

import numpy as np

from antvisionps.fusion.heuristic import FusedImage
from antvisionps.fusion.semantic_average import SemanticAverage
from antvisionps.panoptic.categories import CategorySet


def pixel_doubt(fused: FusedImage, average: SemanticAverage, categories: CategorySet) -> np.ndarray:
    """(H, W) float32 from 0, sure, to 1, of a map and the semantics that it was made with. Where a segment has no
    probability, as methods other than auto leave it, p(c, x) alone counts."""
    doubt = np.ones(fused.hw, dtype=np.float32)
    for segment in fused.segments:
        left, top, width, height = segment.bbox_xywh
        box = slice(top, top + height), slice(left, left + width)
        on_segment = fused.segment_ids[box] == segment.segment_id
        probs = average.probabilities(categories.class_index(segment.category_id), *box)[on_segment]
        doubt[box][on_segment] = 1 - (probs if segment.probability is None else np.minimum(probs, segment.probability))
    return doubt
