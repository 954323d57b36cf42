"""Which images are held out: as many as wanted, and equal photos on one side."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antvisionps.core.errors import DataError
from antvisionps.panoptic.heldout import choose_heldout, group_equal


def test_heldout_is_a_function_of_the_set_of_ids_and_the_seed():
    ids = range(100, 200)
    chosen = choose_heldout(ids, count=10, seed=1)
    assert len(chosen) == 10
    assert chosen <= set(ids)
    assert choose_heldout(reversed(ids), count=10, seed=1) == chosen
    assert choose_heldout(ids, count=10, seed=2) != chosen


def test_without_equal_photos_the_draw_is_numpys_own():
    ids = sorted(np.random.default_rng(5).choice(10_000, 300, replace=False).tolist())
    drawn = np.random.default_rng(7).choice(300, size=40, replace=False)
    assert choose_heldout(ids, count=40, seed=7, equal_photos=[[ids[0]]]) == {ids[index] for index in drawn}


def test_a_group_that_the_draw_does_not_split_changes_nothing():
    drawn = choose_heldout(range(20), count=8, seed=0)
    groups = [sorted(drawn)[:3], sorted(set(range(20)) - drawn)[:4]]
    assert choose_heldout(range(20), count=8, seed=0, equal_photos=groups) == drawn


@given(st.lists(st.integers(0, 4), min_size=2, max_size=11), st.integers(0, 5), st.data())
def test_no_group_is_split_and_the_number_is_the_nearest_that_is_possible(photos, seed, data):
    count = data.draw(st.integers(1, len(photos) - 1))
    groups = [[place for place, photo in enumerate(photos) if photo == one] for one in sorted(set(photos))]
    if len(groups) == 1:
        with pytest.raises(DataError, match="photos of train are equal"):
            choose_heldout(range(len(photos)), count=count, seed=seed, equal_photos=groups)
        return
    chosen = choose_heldout(range(len(photos)), count=count, seed=seed, equal_photos=groups)
    assert all(chosen.isdisjoint(group) or chosen.issuperset(group) for group in groups)
    numbers = {sum(sizes) for n in range(1, len(groups)) for sizes in itertools.combinations(map(len, groups), n)}
    assert len(chosen) == min(numbers, key=lambda number: (abs(number - count), number))
    assert chosen == choose_heldout(range(len(photos))[::-1], count=count, seed=seed, equal_photos=groups[::-1])


def test_few_images_change_sides_where_a_group_is_put_together():
    drawn = choose_heldout(range(1000), count=100, seed=1)
    pair = [min(drawn), min(set(range(1000)) - drawn)]
    chosen = choose_heldout(range(1000), count=100, seed=1, equal_photos=[pair])
    assert len(chosen) == 100
    assert len(chosen ^ drawn) <= 2


def test_images_of_one_key_are_a_group():
    assert group_equal({4: b"a", 7: b"b", 9: b"a", 11: b"c", 12: b"a"}) == [[4, 9, 12]]
