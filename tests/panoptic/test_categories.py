"""Things before stuff, class indices and category ids, and what a category list may not hold."""

import pytest

from antvisionps.core.errors import DataError
from antvisionps.panoptic.categories import MAX_CATEGORIES, CategorySet

SKY = {"id": 4, "name": "sky", "isthing": 0, "color": [1, 2, 3]}
CAT = {"id": 90, "name": "cat", "isthing": 1, "color": [4, 5, 6]}
DOG = {"id": 7, "name": "dog", "isthing": 1}


WRONG_NUMBERS = (1.9, None, True, float("nan"), float("inf"), "4", [4])


def test_class_indices_are_things_then_stuff_each_by_category_id_and_json_keeps_all():
    categories = CategorySet.from_json([SKY, CAT, DOG], where="here")
    assert [category.name for category in categories.categories] == ["dog", "cat", "sky"]
    assert categories.category_ids.tolist() == [7, 90, 4]
    assert [categories.class_index(category_id) for category_id in (7, 90, 4)] == [0, 1, 2]
    assert [category.name for category in categories.things] == ["dog", "cat"]
    assert [category.name for category in categories.stuff] == ["sky"]
    assert categories.by_id(90).name == "cat"
    assert len(categories) == 3
    assert [row["id"] for row in categories.to_json()] == [4, 7, 90]  # in another order
    assert CategorySet.from_json(categories.to_json(), where="there") == categories


def test_categories_without_colour_get_colours_of_their_own():
    rows = [{"id": number, "name": str(number), "isthing": 1} for number in range(1, 20)]
    colors = {category.color_rgb for category in CategorySet.from_json(rows, where="here").categories}
    assert len(colors) == 19
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_an_unknown_category_id_is_not_in_the_set():
    categories = CategorySet.from_json([SKY], where="here")
    assert 4 in categories
    assert 5 not in categories
    with pytest.raises(KeyError):
        categories.class_index(5)


def test_a_category_id_may_be_0_or_a_whole_float_and_what_is_optional_may_be_null():
    rows = [
        {**SKY, "id": 0, "isthing": False, "color": None},
        {**CAT, "id": 90.0, "isthing": 1.0, "supercategory": None},
    ]
    categories = CategorySet.from_json(rows, where="here")
    assert categories.category_ids.tolist() == [90, 0]
    assert [type(row["id"]) for row in categories.to_json()] == [int, int]
    assert categories.by_id(0).name == "sky"
    assert not categories.by_id(0).is_thing


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected 1 to 255 categories, got 0"),
        ([{"id": n, "name": str(n), "isthing": 0} for n in range(1, MAX_CATEGORIES + 2)], "got 256"),
        ([SKY, {**CAT, "id": 4}], "category id 4 appears twice"),
        ([SKY, {**CAT, "name": "sky"}], "category name 'sky' appears twice"),
        *(([{**SKY, "id": wrong}], "category .*: id: expected a whole number") for wrong in WRONG_NUMBERS),
        *(
            ([{**SKY, "id": wrong}], f"id: expected a number from 0 to 2147483647, got {wrong}")
            for wrong in (-1, 2**31)
        ),
        *(([{**SKY, "name": wrong}], "category 4 .*: name: ") for wrong in (None, True, [], "", "\ud800")),
        ([{"id": 1, "name": "sky"}], "category 1 \\('sky'\\): no 'isthing'"),
        *(
            ([{**SKY, "color": wrong}], r"color: expected \[r, g, b\]")
            for wrong in ([1, 2], "red", [1, 2, 300], [-1, 2, 3])
        ),
        ([{**SKY, "color": [1, 2, 0.5]}], "color: expected a whole number, got 0.5"),
        *(
            ([{**SKY, "isthing": flag}], "isthing: expected 0, 1, false or true")
            for flag in ("0", "false", 2, 0.5, None)
        ),
        (["sky"], "expected a category with id, name and isthing, got sky"),
    ],
)
def test_a_broken_list_is_refused_with_the_name_of_its_file(rows, message):
    with pytest.raises(DataError, match=message) as caught:
        CategorySet.from_json(rows, where="panoptic.json")
    assert str(caught.value).startswith("panoptic.json: ")
