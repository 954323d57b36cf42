"""Changes as `dvc exp run -S` takes them, read back by DVC itself."""

import tempfile
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antvisionps.params.overrides import overrides
from antvisionps.params.section import parse

PARAMS = "fuse:\n  preset:\n  min_scores: {}\n  systems:\n  - lwl_htc\n"


def changed(*overrides: str) -> dict:
    """Section fuse with these changes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(PARAMS)
        apply_overrides(path, list(overrides))
        return parse(path, path.read_text())["fuse"]


@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("ab7 ,:=()[]{}\\-/.$%"), min_size=1, max_size=8))
@example("dining table")
@example("a, b")
@example("back\\")
@example("true")
def test_a_category_of_any_name_reaches_the_params_or_is_refused(name):
    try:
        (line,) = overrides("fuse.min_scores", {name: 0.3})
    except ValueError:
        assert name.strip("0123456789.+-_") == ""
        return
    assert changed(line)["min_scores"] == {name: 0.3}


@pytest.mark.parametrize("name", ["Tür", "it's", 'a "b"', "a & b", "#1", "07", "1e3"])
def test_a_name_that_the_grammar_cannot_write_is_refused(name):
    with pytest.raises(ValueError, match="cannot be written"):
        list(overrides("fuse.min_scores", {name: 0.3}))


@pytest.mark.parametrize("name", ["ring", "dining table", "7", "null", "a.b"])
def test_an_entry_joins_the_table(name):
    of_key, of_table = overrides(f"fuse.min_scores.{name}", 0.3), overrides("fuse.min_scores", {name: 0.3})
    for changes in ([*of_key], [*of_table]):
        assert changed("++fuse.min_scores={ball: 0.2}", *changes)["min_scores"] == {"ball": 0.2, name: 0.3}


def test_an_id_is_text_as_dvc_sorts_keys():
    assert changed(*overrides("fuse.min_scores", {7: 0.3, "ring": 0.2}))["min_scores"] == {"7": 0.3, "ring": 0.2}


@pytest.mark.parametrize("value", [None, True, 3, 0.25, 1e-05, "upsnet"])
def test_plain_values_are_as_in_yaml(value):
    assert changed(*overrides("fuse.preset", value))["preset"] == value


def test_lists_replace():
    assert changed(*overrides("fuse.systems", ["e_ups", "fusion"]))["systems"] == ["e_ups", "fusion"]
