"""Maps whose pixels hold label · 1000 + number inside an instance and the label alone elsewhere, as Cityscapes' do."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from antvisionps.panoptic.categories import CategorySet

INSTANCES_PER_LABEL = 1000


class SegmentMap(NamedTuple):
    """(H, W) int32 segment ids, 0 = void; category_id of each segment; the ids of crowds."""

    segment_ids: np.ndarray
    category_ids: dict[int, int]
    crowd_ids: set[int]


def label_of(instance_id: int) -> int:
    return instance_id // INSTANCES_PER_LABEL if instance_id >= INSTANCES_PER_LABEL else instance_id


def to_segment_map(
    instance_ids: np.ndarray, categories: CategorySet, *, label_of: Callable[[int], int] = label_of
) -> SegmentMap:
    """A label is a category id, and void where it is none; a segment's id is its instance id, or one more where 0 is a
    category.

    A thing's label alone is a crowd: instances that are too close to tell apart.
    """
    shift = int(0 in categories)
    labels = {value: label_of(value) for value in np.unique(instance_ids).tolist()}
    known = {value: label for value, label in labels.items() if label in categories}
    segment_ids = np.where(np.isin(instance_ids, list(known)), instance_ids.astype(np.int32) + shift, 0)
    crowds = {value for value, label in known.items() if value == label and categories.by_id(label).is_thing}
    return SegmentMap(
        segment_ids.astype(np.int32),
        {value + shift: label for value, label in known.items()},
        {value + shift for value in crowds},
    )
