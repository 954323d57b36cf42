"""What the comparisons write, and that a finished trial is not run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from antvisionps.params import load_params
from benchmarks import trials
from benchmarks.trials import e_ups_trial, read_document, replace_section, run_trials, single_end, table

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
@pytest.mark.parametrize("end", ["e_ups", "panoptic_fpn"])
def test_the_params_of_one_end_alone_are_valid(path, end, tmp_path):
    document = single_end(read_document(path), end=end, seed=7)
    written = tmp_path / "params.yaml"
    written.write_text(json.dumps(document))
    params = load_params(written)
    assert params.ends == params.fuse.systems == (end,)
    assert params.train_e_ups.members == ("base",)
    assert params.train_e_ups.seed == 7


def test_a_finished_trial_is_read_and_another_seed_is_run(tmp_path, monkeypatch):
    ran = []

    def pretend(command):
        ran.append(command[0])
        if "score.py" in command[0]:
            out = Path(command[command.index("--out") + 1])
            out.mkdir(parents=True)
            groups = {name: {"PQ": 50.0} for name in ("All", "Things")} | {"Stuff": {"PQ": None}}
            (out / "panoptic.json").write_text(json.dumps({"e_ups": groups}))

    monkeypatch.setattr(trials, "_run", pretend)
    params = read_document(PROJECT / "params.yaml")
    first = e_ups_trial("+ LSH", params, seed=1, network={"location_sensitive_header": True})
    assert first.params["train_e_ups"]["networks"]["base"]["location_sensitive_header"]
    expected = {"+ LSH": [{"PQ": 50.0, "PQTh": 50.0, "PQSt": 0.0}]}
    assert run_trials([first], work_dir=tmp_path) == expected
    assert ran == ["stages/prepare.py", *(f"stages/{s}.py" for s in ("train_e_ups", "predict", "fuse", "score"))]
    ran.clear()
    assert run_trials([first], work_dir=tmp_path) == expected
    assert "stages/train_e_ups.py" not in ran
    run_trials([e_ups_trial("+ LSH", params, seed=2, network={})], work_dir=tmp_path)
    assert "stages/train_e_ups.py" in ran
