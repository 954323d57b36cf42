"""Names from input never lead a written file out of its folder."""

import pytest

from antvisionps.core.errors import PredictionsError
from antvisionps.core.file_names import base_name, path_below, stays_below

SANE = [
    "a.jpg",
    "a/b.jpg",
    "./a.jpg",
    "a//b.jpg",
    "a b.jpg",
    "..a.jpg",
    "a..b/c...jpg",
    ".hidden",
    "ü/猫.png",
    "12:30.jpg",
]
ODD = ["..", "/", "/a.jpg", "//a/b.jpg", "../a.jpg", "a/../../b.jpg", "a/..", "a/../b.jpg", "a\\b.jpg"]
ODD += [
    "..\\a.jpg",
    "C:/a.jpg",
    "c:a.jpg",
    "\\\\host\\share\\a.jpg",
    "a\0.jpg",
    "a\n.jpg",
    "a\x7f.jpg",
    "a\u2028.jpg",
    "\ud800.jpg",
]


@pytest.mark.parametrize("name", SANE)
def test_a_name_that_stays_below_the_folder_is_taken(name, tmp_path):
    path = path_below(tmp_path, name, error=PredictionsError)
    assert path == tmp_path / name
    assert path.resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_leaves_the_folder_is_refused(name, tmp_path):
    assert not stays_below(name)
    with pytest.raises(PredictionsError, match="would leave it") as refusal:
        path_below(tmp_path, name, error=PredictionsError)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_the_folder_itself_is_no_file(name, tmp_path):
    assert stays_below(name)
    with pytest.raises(PredictionsError):
        path_below(tmp_path, name, error=PredictionsError)


@pytest.mark.parametrize("name", ["a.jpg", "/x/a.jpg", "../a.jpg", "x\\a.jpg", "C:\\x\\a.jpg", "C:a.jpg", "x/a.jpg/"])
def test_the_last_part_of_a_name_is_a_file_of_the_folder(name):
    assert base_name(name) == "a.jpg"
    assert stays_below(base_name(name))
