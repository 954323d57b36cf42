"""What the comparisons write, and that a finished trial is not run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from antvisionps.params.profiles import read_params
from antvisionps.params.whole import load_params
from benchmarks import trials
from benchmarks.trials import end_trial, replace_section, run_trials, single_end, table

PROJECT = Path(__file__).parents[2]
PARAMS = sorted([PROJECT / "params.yaml", *(PROJECT / "profiles").glob("*.yaml")])


def test_a_table_tells_mean_and_sample_deviation_over_the_seeds():
    results = {
        "vanilla": [{"PQ": 10.0, "PQTh": 1.0, "PQSt": 20.0}, {"PQ": 13.0, "PQTh": 2.0, "PQSt": 20.0}],
        "+ BFP": [{"PQ": 11.0, "PQTh": 0.0, "PQSt": 1.0}],
    }
    assert table(results).splitlines()[2:] == [
        "| vanilla | 11.50 ± 2.12 | 1.50 ± 0.71 | 20.00 ± 0.00 | 10.0, 13.0 |",
        "| + BFP | 11.00 | 0.00 | 1.00 | 11.0 |",
    ]


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "docs" / "ablations.md"
    replace_section(path, "A (x)", "first")
    replace_section(path, "B", "second")
    replace_section(path, "A (x)", "third")
    assert path.read_text() == "# Ablations\n\n## A (x)\n\nthird\n\n## B\n\nsecond\n"
    replace_section(path, "B", "fourth")
    assert path.read_text() == "# Ablations\n\n## A (x)\n\nthird\n\n## B\n\nfourth\n"


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("end", "section"),
    [("e_ups", "train_e_ups"), ("lwl_htc", "train_lwl_htc"), ("panoptic_fpn", "train_e_ups")],
)
def test_the_params_of_one_end_alone_are_valid(path, end, section, tmp_path):
    document = single_end(read_params(path), end=end, seed=7, section=section)
    written = tmp_path / "params.yaml"
    written.write_text(json.dumps(document))
    params = load_params(written)
    assert params.ends == params.fuse.systems == (end,)
    assert params.train_e_ups.members == ("base",)
    assert getattr(params, section).seed == 7


@pytest.fixture
def ran(monkeypatch):
    """Stage scripts that would have run; scoring gives every system a PQ of 50."""
    commands = []

    def pretend(command):
        commands.append(Path(command[0]).stem)
        if "score.py" in command[0]:
            value = {option: Path(command[command.index(option) + 1]) for option in ("--params", "--out")}
            value["--out"].mkdir(parents=True)
            groups = {name: {"PQ": 50.0} for name in ("All", "Things")} | {"Stuff": {"PQ": None}}
            systems = json.loads(value["--params"].read_text())["fuse"]["systems"]
            (value["--out"] / "panoptic.json").write_text(json.dumps(dict.fromkeys(systems, groups)))

    monkeypatch.setattr(trials, "_run", pretend)
    return commands


@pytest.mark.parametrize(
    ("end", "changes"), [("e_ups", {"location_sensitive_header": True}), ("lwl_htc", {"uncertainty": "task"})]
)
def test_a_finished_trial_is_read_and_another_seed_is_run(end, changes, tmp_path, ran):
    params = read_params(PROJECT / "params.yaml")
    first = end_trial("changed", params, end=end, seed=1, network=changes)
    section = first.params[f"train_{end}"]
    assert changes.items() <= (section["networks"]["base"] if end == "e_ups" else section["network"]).items()
    expected = {"changed": [{"PQ": 50.0, "PQTh": 50.0, "PQSt": 0.0}]}
    assert run_trials([first], work_dir=tmp_path) == expected
    assert ran == ["prepare", f"train_{end}", "predict", "fuse", "score"]
    ran.clear()
    assert run_trials([first], work_dir=tmp_path) == expected
    assert not {f"train_{end}", "predict", "fuse", "score"} & set(ran)
    run_trials([end_trial("changed", params, end=end, seed=2, network=changes)], work_dir=tmp_path)
    assert f"train_{end}" in ran
