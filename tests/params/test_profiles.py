"""What a profile stands for, and what DVC leaves of it."""

import difflib
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from antvisionps.core.errors import ParamsError
from antvisionps.params.profiles import compose, read_params
from antvisionps.params.whole import load_params

PROJECT = Path(__file__).parents[2]
PROFILES = sorted((PROJECT / "profiles").glob("*.yaml"))
BASE = """\
# The base.

# Of all.

ends: # who
- a
- b
train:
  networks: # one each
    base:
      width: 1 # in channels
  levels: [] # none
  lr: 1e-3

# Last.
fuse:
  preset: # a name
  order: score # score | learned
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def composed(folder: Path, text: str) -> str:
    (folder / "mine.yaml").write_text(text)
    return compose(folder / "mine.yaml")


@pytest.mark.parametrize(
    ("profile", "old", "new"),
    [
        ("fuse: {order: learned}", "order: score #", "order: learned #"),
        ("fuse:\n  order: learned # mine\n", "order: score # score | learned", "order: learned # mine"),
        ("fuse: # mine\n  preset: b\n", "fuse:\n  preset: #", "fuse: # mine\n  preset: b #"),
        ("ends: [c] # mine", "ends: # who\n- a\n- b\n", "ends: # mine\n- c\n"),
        ("train: {levels: [2, 3]}", "levels: [] # none\n", "levels: # none\n  - 2\n  - 3\n"),
        ("train: {lr: null}", "lr: 1e-3", "lr:"),
        ("train: {lr: 1e-4}", "lr: 1e-3", "lr: 1e-4"),
        ("train: {networks: {base: {width: 2}}}", "width: 1 #", "width: 2 #"),
        ("train: {networks: {b: {width: 2}}}", "  levels:", "    b:\n      width: 2\n  levels:"),
        (
            "train:\n  networks: !override # two\n    a: &a {width: 2, k: 3}\n    b: {<<: *a, k: 4}\n",
            "networks: # one each\n    base:\n      width: 1 # in channels\n",
            "networks: # two\n    a:\n      width: 2\n      k: 3\n    b:\n      k: 4\n      width: 2\n",
        ),
        ("new: {a: 1}", "  order: score # score | learned\n", "  order: score # score | learned\nnew:\n  a: 1\n"),
    ],
)
def test_what_a_profile_says_replaces_what_the_base_says_and_comments_stay(base, profile, old, new):
    assert BASE.count(old) == 1
    text = composed(base, f"# Mine,\n# really.\n\nextends: base.yaml\n\n# Not of the base.\n{profile}\n")
    assert text == BASE.replace(old, new).replace("# The base.", "# Mine,\n# really.")


def test_a_profile_may_extend_a_profile(base):
    composed(base, "extends: base.yaml\nfuse: {order: learned}\n")
    (base / "sub").mkdir()
    (base / "sub" / "mine.yaml").write_text("extends: ../mine.yaml\nfuse: {preset: b}\n")
    assert read_params(base / "sub" / "mine.yaml")["fuse"] == {"order": "learned", "preset": "b"}


def test_a_whole_file_stands_for_itself_byte_by_byte(base):
    assert compose(base / "base.yaml") == BASE


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ("extends: mine.yaml\n", r"mine\.yaml: extends leads back to this file"),
        ("extends: other.yaml\n", r"other\.yaml: no such file"),
        ("extends: list.yaml\n", r"list\.yaml: expected the sections of params\.yaml, got \[1\]"),
        ("extends: base.yaml\nfuse: [", r"mine\.yaml: not valid YAML"),
        ("extends: base.yaml\nfuse: {a: 1}\nfuse: {b: 1}\n", r"mine\.yaml: not valid YAML"),
    ],
)
def test_a_profile_that_stands_for_nothing_is_refused(base, profile, complaint):
    (base / "list.yaml").write_text("[1]")
    with pytest.raises(ParamsError, match=complaint):
        composed(base, profile)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("fuse: {max_overlap: 0.5}", r"fuse\.max_overlap: unknown key"),
        ("fuse: {min_score: 2.0}", r"fuse\.min_score: .*less than or equal to 1, got 2"),
        ("fuse: {routing: union}", r"fuse\.routing: this key is now fuse\.instance_ensemble"),
        ("train_e_ups: {networks: {base: {backbone: {depth: 50}}}}", r"networks\.base\.backbone\.depth: unknown key"),
    ],
)
def test_a_mistake_is_told_of_the_profile(tmp_path, change, complaint):
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"extends: {PROJECT / 'profiles' / 'built_in.yaml'}\n{change}\n")
    with pytest.raises(ParamsError, match=rf"mine\.yaml: .*{complaint}"):
        load_params(profile)


def test_params_yaml_is_the_built_in_profile():
    built_in = (PROJECT / "profiles" / "built_in.yaml").read_text()
    assert (PROJECT / "params.yaml").read_text() == built_in, "run `antvisionps use profiles/built_in.yaml --force`"


def diff_of(text: str, change: str, path: Path) -> list[str]:
    """What `dvc exp run -S` changes in this params.yaml: lines that go by -, new ones by +, without comments."""
    path.write_text(text)
    apply_overrides(path, [change])
    changed = [line for line in difflib.ndiff(text.splitlines(), path.read_text().splitlines()) if line[0] in "-+"]
    lines = [line[0] + line[2:].partition(" #")[0].strip() for line in changed]
    return sorted(lines, key=lambda line: line[0] == "+")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("fuse.preset=upsnet", ["-preset:", "+preset: upsnet"]),
        ("fuse.preset=null", []),
        ("train_e_ups.optimizer.learning_rate=0.5", ["-learning_rate: 2e-3", "+learning_rate: 0.5"]),
        ("train_hrnet_aspp.members=[]", ["-members:", "-- base", "+members: []"]),
        ("ends=[e_ups]", ["-- lwl_htc", "-- hrnet_aspp"]),
        ("ends=[]", ["-ends:", "-- e_ups", "-- lwl_htc", "-- hrnet_aspp", "+ends: []"]),
        ("fuse.systems=[e_ups,fusion]", ["-- lwl_htc"]),
        ("import_end.ends=[mine]", ["-ends: []", "+ends:", "+- mine"]),
        ("+fuse.semantic_weights.lwl_htc=0.1", ["-semantic_weights: {}", "+semantic_weights:", "+lwl_htc: 0.1"]),
    ],
)
def test_dvc_changes_the_lines_of_its_key_alone(change, expected, tmp_path):
    text = compose(PROJECT / "profiles" / "built_in.yaml")
    assert diff_of(text, change, tmp_path / "params.yaml") == expected


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_is_valid_and_written_as_dvc_writes(profile, tmp_path):
    assert load_params(profile).ends
    changed = diff_of(compose(profile), "fuse.max_overlap_frac=0.3", tmp_path / "params.yaml")
    assert changed == ["-max_overlap_frac: 0.5", "+max_overlap_frac: 0.3"]
