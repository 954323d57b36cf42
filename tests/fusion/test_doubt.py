from dataclasses import replace

import numpy as np
import pytest

from antvisionps.fusion.heuristic import HeuristicRules
from antvisionps.fusion.system import FusionSettings, fuse_predictions
from tests.drawing import found
from tests.fusion.test_segment_voting import CATEGORIES, HW, ends_of, mean_on, semantics, settings


def fuse(instances, planes, chosen):
    return fuse_predictions(instances, planes, categories=CATEGORIES, settings=chosen)


def slow_doubt(fused, planes, *, with_probabilities):
    """Pixel by pixel, from the definition."""
    doubt = np.ones(HW)
    segments = {segment.segment_id: segment for segment in fused.segments}
    for y, x in np.argwhere(fused.segment_ids):
        segment = segments[fused.segment_ids[y, x]]
        pixel = np.zeros(HW, bool)
        pixel[y, x] = True
        sure = mean_on(pixel, planes, segment.category_id)
        doubt[y, x] = 1 - (min(sure, segment.probability) if with_probabilities else sure)
    return doubt


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("paste_by", ["heuristic", "panoptic_head"])
def test_doubt_of_auto_is_that_of_the_segment_or_of_the_pixel(seed, paste_by):
    instances, planes = ends_of(2 * seed, 2 * seed + 1)
    chosen = settings(sorted(instances), paste_by=paste_by, least={3: 0.6, 4: 0.6})
    fused = fuse(instances, planes, replace(chosen, with_doubt=True))
    assert fused.doubt.dtype == np.float32
    np.testing.assert_allclose(fused.doubt, slow_doubt(fused, planes, with_probabilities=True), atol=1e-5)
    plain = fuse(instances, planes, chosen)
    assert plain.doubt is None
    assert np.array_equal(plain.segment_ids, fused.segment_ids)


@pytest.mark.parametrize("method", ["heuristic", "panoptic_head"])
def test_without_probabilities_of_segments_that_of_the_pixel_counts(method):
    instances, planes = ends_of(7)
    rules = HeuristicRules(0.3, 0.5, 20)
    chosen = FusionSettings(method, rules, {"end7": 1.0}, "probabilities", None, None, with_doubt=True)
    fused = fuse(instances, planes, chosen)
    np.testing.assert_allclose(fused.doubt, slow_doubt(fused, planes, with_probabilities=False), atol=1e-5)


def test_void_is_doubted_altogether_and_a_sure_map_not_at_all():
    nothing, half_sea = found(hw=HW), np.zeros((4, 6, 8))
    half_sea[3, :, :4] = 1
    rules = HeuristicRules(0.5, 0.5, 0)
    chosen = FusionSettings("heuristic", rules, {"end": 1.0}, "probabilities", None, None, with_doubt=True)
    doubt = fuse({"end": nothing}, {"end": semantics(half_sea)}, chosen).doubt
    assert np.array_equal(np.unique(doubt[:, :7]), [0.0])
    chosen = replace(chosen, rules=HeuristicRules(0.5, 0.5, 10_000))
    assert (fuse({"end": nothing}, {"end": semantics(half_sea)}, chosen).doubt == 1).all()
