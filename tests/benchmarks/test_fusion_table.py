"""Which trainings and systems the fusion table runs, and the gain that it tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from antvisionps.params.profiles import read_params
from antvisionps.params.whole import load_params
from benchmarks.fusion_table import gains, trained_ends, trials_of_seed
from benchmarks.trials import table

ENDS = ["e_ups", "lwl_htc"]


@pytest.fixture
def params():
    return read_params(PROJECT / "params.yaml")


def test_every_seed_changes_all_trainings_and_not_the_data(params):
    own, other = (trials_of_seed(params, ENDS, [], seed=seed)[0].params for seed in (0, 3))
    for section in ("train_e_ups", "train_lwl_htc"):
        assert own[section]["seed"] == params[section]["seed"]
        assert other[section]["seed"] == params[section]["seed"] + 300
    assert own["prepare"] == other["prepare"] == params["prepare"]


def test_plain_and_calibrated_fusions_share_their_trainings(params, tmp_path):
    plain, calibrated = trials_of_seed(params, ENDS, [], seed=0)
    assert plain.trainings == calibrated.trainings
    assert [training.end for training in plain.trainings] == ENDS
    assert set(plain.rows) == {"e_ups", "lwl_htc", "fusion"}
    assert not set(plain.rows.values()) & set(calibrated.rows.values())
    path = tmp_path / "params.yaml"
    for trial, is_calibrated in ((plain, False), (calibrated, True)):
        path.write_text(json.dumps(trial.params))
        assert load_params(path).fuse.calibrated is is_calibrated


def test_an_added_end_is_fused_but_not_scored_alone(params):
    params["train_hrnet_aspp"] = params["train_e_ups"]
    added = trained_ends(params, without=ENDS)
    assert added[-1] == "hrnet_aspp"
    trials = trials_of_seed(params, ENDS, ["hrnet_aspp"], seed=1)
    assert [list(trial.rows) for trial in trials] == [["e_ups", "lwl_htc", "fusion"], ["fusion"]] * 2
    assert trials[1].params["ends"] == ["e_ups", "lwl_htc", "hrnet_aspp"]
    assert trials[1].trainings[2].commands[0][0] == "stages/train_hrnet_aspp.py"
    assert "--member" in trials[1].trainings[2].commands[0]
    names = [name for trial in trials for name in trial.rows.values()]
    assert len(set(names)) == len(names) == 8


def test_the_gain_is_over_the_better_end_of_the_same_seed():
    def of(*values):
        return [{"PQ": value, "PQTh": 0.0, "PQSt": 0.0} for value in values]

    results = {
        "a": of(10.0, 20.0),
        "b": of(12.0, 16.0),
        "fusion of a, b": of(15.0, 19.0),
        "a; calibrated": of(30.0, 30.0),
        "b; calibrated": of(31.0, 20.0),
        "fusion of a, b; calibrated": of(33.0, 31.0),
    }
    gained = gains(results, ends=["a", "b"])
    assert gained == {"fusion of a, b": [3.0, -1.0], "fusion of a, b; calibrated": [2.0, 1.0]}
    lines = table(results, gains=gained).splitlines()
    assert lines[0].endswith("| gain over the better end |")
    assert lines[4].endswith("| +1.00 ± 2.83 |")
    assert lines[2].endswith("| – |")
