"""The rule by which regions become a map, on maps of a few pixels and against a slow way."""

import numpy as np
import pytest

from antvisionps.datasets.conversion.layers import empty_map, lay_regions
from antvisionps.datasets.instance_ids import SegmentMap
from antvisionps.panoptic.rle import encode_masks
from tests.datasets.conversion.result import paint
from tests.drawing import category_set, draw

CAT, DOG, SKY, GRASS = 3, 0, 7, 9
CATEGORIES = category_set({CAT: "cat", DOG: "dog"}, {SKY: "sky", GRASS: "grass"})


def lay(*regions, below=None, hw=(3, 4)):
    """Of (category_id, is_crowd, mask)."""
    encoded = [(category_id, crowd, encode_masks(mask[None])[0]) for category_id, crowd, mask in regions]
    return lay_regions(encoded, CATEGORIES, below or empty_map(*hw))


def shown(layered):
    """Category names' first letters by pixel, upper case where it is a crowd, a dot where it is void."""
    ids, category_ids, crowds = layered.map
    letter = {0: "."}
    for segment_id, category_id in category_ids.items():
        name = CATEGORIES.by_id(category_id).name[0]
        letter[segment_id] = name.upper() if segment_id in crowds else name
    return ["".join(letter[value] for value in row) for row in ids.tolist()]


def test_things_lie_over_stuff_the_smaller_on_top_and_the_rest_is_void():
    layered = lay(
        (DOG, False, draw("..#. .... ....")), (SKY, False, draw("#### #### ....")), (CAT, False, draw(".##. .##. ...."))
    )
    assert shown(layered) == ["scds", "sccs", "...."]
    assert (layered.overlap_px, layered.hidden) == (1, 0)


def test_a_crowd_lies_below_single_things_and_is_no_overlap():
    layered = lay((CAT, True, draw("##.. .... ....")), (CAT, False, draw("#### #### ....")))
    assert shown(layered) == ["cccc", "cccc", "...."]
    assert (layered.overlap_px, layered.hidden) == (0, 1)
    layered = lay((CAT, False, draw(".##. .... ....")), (CAT, True, draw("#### .... ....")))
    assert shown(layered) == ["CccC", "....", "...."]


def test_of_equal_ones_the_later_is_on_top_and_what_is_hidden_is_counted():
    layered = lay((CAT, False, draw("##.. .... ....")), (DOG, False, draw("##.. .... ....")))
    assert shown(layered) == ["dd..", "....", "...."]
    assert (layered.overlap_px, layered.hidden) == (2, 1)


def test_regions_of_a_stuff_category_are_one_segment_with_what_lies_at_the_bottom():
    below = SegmentMap(np.array([[5, 5, 0, 0]] * 3, dtype=np.int32), {5: SKY}, set())
    layered = lay((SKY, False, draw("...# .... ....")), (GRASS, True, draw(".... #... ....")), below=below)
    assert shown(layered) == ["ss.s", "gs..", "ss.."]
    assert sorted(layered.map.category_ids.items()) == [(5, SKY), (6, GRASS)]


def test_without_a_region_the_map_is_what_lies_at_the_bottom():
    assert shown(lay()) == ["...."] * 3
    below = SegmentMap(np.array([[5, 0, 0, 8]] * 3, dtype=np.int32), {5: SKY, 8: CAT}, {8})
    assert shown(lay(below=below)) == ["s..C"] * 3


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_painting_pixel_by_pixel_gives(seed):
    rng = np.random.default_rng(seed)
    hw = tuple(rng.integers(1, 12, 2))
    regions = []
    for _ in range(rng.integers(0, 9)):
        mask = rng.random(hw) < rng.random()
        regions.append((int(rng.choice([CAT, DOG, SKY, GRASS])), bool(rng.random() < 0.3), mask))
    layered = lay(*regions, hw=hw)
    ids, category_ids, crowds = layered.map
    found = {
        (category_ids[value], int(value in crowds), (ids == value).tobytes())
        for value in np.unique(ids).tolist()
        if value
    }
    assert found == paint(hw, regions, {CAT, DOG})
    single = [mask for category_id, crowd, mask in regions if category_id in (CAT, DOG) and not crowd]
    assert layered.overlap_px == (np.sum(single, axis=0) > 1).sum()
