"""The true instances of an image where its panoptic map is all there is."""

import numpy as np

from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.gt_instances import visible_instances
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import PanopticImage, measure_segments

CATEGORIES = CategorySet.from_json(
    [{"id": 1, "name": "sea", "isthing": 0}, {"id": 2, "name": "ship", "isthing": 1}], where="test"
)


def test_true_instances_are_the_things_of_the_panoptic_map():
    segment_ids = np.array([[7, 7, 0], [900, 7, 5]], dtype=np.int32)
    segments = measure_segments(segment_ids, category_ids={5: 1, 7: 2, 900: 2}, crowd_ids={900})
    gt = visible_instances(segment_ids, PanopticImage(1, "a", "a", 2, 3, segments), CATEGORIES)
    assert gt.category_ids.tolist() == [2, 2]
    assert gt.is_crowd.tolist() == [False, True]
    assert gt.rles == encode_masks(np.stack([segment_ids == 7, segment_ids == 900]))
    nothing = visible_instances(segment_ids, PanopticImage(1, "a", "a", 2, 3, segments[:1]), CATEGORIES)
    assert nothing.rles == []
