import numpy as np

from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import Segment
from antvisionps.report.overlays import boundaries, draw_overlay, panel_hw, shrink_map, shrink_photo, side_by_side

CATEGORIES = CategorySet.from_json(
    [
        {"id": 1, "name": "cat", "isthing": 1, "color": [200, 40, 0]},
        {"id": 2, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
    ],
    where="test",
)
PHOTO = np.full((4, 9, 3), 100, dtype=np.uint8)
IDS = np.repeat([[5, 5, 5, 7, 7, 7, 70000, 70000, 0]], 4, axis=0)
SEGMENTS = [Segment(i, c, 12, (0, 0, 3, 4), False) for i, c in ((5, 1), (7, 1), (70000, 2))]


def test_lines_stand_where_the_segment_changes():
    lines = boundaries(np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]]))
    np.testing.assert_array_equal(lines, [[0, 1, 0], [1, 1, 1], [0, 0, 0]])


def test_instances_have_shades_of_their_categorys_colour():
    picture = draw_overlay(PHOTO, IDS, SEGMENTS, CATEGORIES)
    first, second, sky, void = (picture[0, x].astype(int) for x in (0, 4, 6, 8))
    assert (first != second).any()
    assert first.argmax() == second.argmax() == 0
    assert sky.argmax() == 2
    assert (void < 100).all()
    assert (picture[0, 2] == 255).all()
    assert picture.dtype == np.uint8


def test_an_all_void_map_is_the_photo_darkened():
    picture = draw_overlay(PHOTO, np.zeros((4, 9), np.int32), [], CATEGORIES)
    assert len(np.unique(picture)) == 1
    assert picture[0, 0, 0] < 100


def test_panels_stand_side_by_side_and_small_ones_are_enlarged():
    picture = side_by_side([("photo", PHOTO), ("truth", PHOTO)])
    factor = 29  # 9 px are enlarged to 261, the first multiple above 256
    assert picture.shape == (4 * factor + 24, 2 * 9 * factor + 4, 3)
    large = np.zeros((20, 300, 3), np.uint8)
    assert side_by_side([("one", large)]).shape == (44, 300, 3)


def test_a_large_picture_is_drawn_as_if_it_came_in_one_piece():
    rows = 700
    tall = draw_overlay(PHOTO.repeat(rows, axis=0), IDS.repeat(rows, axis=0), SEGMENTS, CATEGORIES)
    flat = draw_overlay(PHOTO, IDS, SEGMENTS, CATEGORIES)
    np.testing.assert_array_equal(tall[: len(tall) - 1 : rows], flat)


def test_a_segment_without_a_pixel_draws_nothing():
    ids = np.where(IDS.max() == IDS, 0, IDS)
    assert draw_overlay(PHOTO, ids, SEGMENTS, CATEGORIES).shape == PHOTO.shape


def test_large_panels_are_shrunk_and_others_are_not_touched():
    assert panel_hw((6000, 8000)) == (1536, 2048)
    assert panel_hw((9000, 1)) == (2048, 1)
    assert panel_hw((1024, 2048)) == (1024, 2048)
    assert shrink_photo(PHOTO, PHOTO.shape[:2]) is PHOTO
    assert shrink_map(IDS, IDS.shape) is IDS
    assert shrink_map(IDS.repeat(2, axis=0).repeat(2, axis=1), IDS.shape).tolist() == IDS.tolist()
    assert shrink_photo(np.zeros((8, 6, 3), np.uint8), (4, 3)).shape == (4, 3, 3)
