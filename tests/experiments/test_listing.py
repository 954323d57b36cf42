"""The table of experiments, of a repository of git that holds them where DVC does."""

import json
import subprocess

import pytest

from antvisionps.cli import main as cli
from antvisionps.params.changes import param_changes

PARAMS = "fuse:\n  min_score: {score}\n  systems: [e_ups, fusion]\nruntime: {{workers: {workers}}}\n"


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, *, score, pq, workers=1):
    quality = {"PQ": pq, "SQ": 80.0, "RQ": 70.0}
    groups = {"All": quality, "Things": quality | {"PQ": pq / 2}, "Stuff": quality | {"PQ": None}}
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(PARAMS.format(score=score, workers=workers))
    (folder / "metrics/panoptic.json").write_text(
        json.dumps({"e_ups": groups | {"All": quality | {"PQ": 1.5}}, "fusion": groups})
    )
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """HEAD, and one experiment on it, as DVC keeps it: a ref named after the commit that it began on."""
    git(tmp_path, "init", "--quiet")
    base = commit(tmp_path, score=0.5, pq=60.0)
    experiment = commit(tmp_path, score=0.25, pq=61.25, workers=2)
    git(tmp_path, "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/low-score", experiment)
    git(tmp_path, "update-ref", "refs/exps/exec/EXEC_HEAD", base)  # DVC's own, no experiment
    git(tmp_path, "reset", "--quiet", "--hard", base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys, *options):
    cli.main(["experiments", *options])
    return capsys.readouterr().out


def test_an_experiment_says_what_it_changed_and_what_that_gained(project, capsys):
    head, experiment = json.loads(listed(capsys, "--json"))
    assert (head["run"], head["PQ"], head["Δ PQ"]) == ("HEAD", 60.0, None)
    assert experiment == {
        "run": "low-score",
        "on": git(project, "rev-parse", "HEAD")[:7],
        "changed params": "fuse.min_score=0.25",
        "PQ": 61.25,
        "PQTh": 30.625,
        "PQSt": None,
        "Δ PQ": 1.25,
        "Δ PQTh": 0.625,
        "Δ PQSt": None,
    }
    assert json.loads(listed(capsys, "--json", "--system", "e_ups"))[1]["Δ PQ"] == 0.0


LOCK = """\
stages:
  train_e_ups@gone: {{params: {{params.yaml: {{fuse.systems: [e_ups]}}}}}}
  train_e_ups@base: {{params: {{params.yaml: {{fuse.systems: {systems}}}}}}}
  score: {{params: {{params.yaml: {{fuse.min_score: {score}, fuse.gone: 1}}}}}}
"""


@pytest.mark.parametrize(
    ("score", "systems", "pq"),
    [(0.25, "[e_ups, fusion]", 60.0), (0.5, "[e_ups, fusion]", None), (0.25, "[fusion]", None)],
)
def test_the_workspace_has_no_quality_of_params_that_its_stages_did_not_run_with(project, capsys, score, systems, pq):
    (project / "params.yaml").write_text(PARAMS.format(score=0.25, workers=1))
    (project / "dvc.lock").write_text(LOCK.format(score=score, systems=systems))
    workspace = json.loads(listed(capsys, "--json"))[0]
    assert (workspace["run"], workspace["changed params"]) == ("workspace", "fuse.min_score=0.25")
    assert (workspace["PQ"], workspace["Δ PQ"]) == (pq, None if pq is None else 0.0)


def test_a_run_of_one_system_is_measured_against_that_system(project, capsys):
    metrics = json.loads((project / "metrics/panoptic.json").read_text())
    del metrics["fusion"]
    (project / "metrics/panoptic.json").write_text(json.dumps(metrics))
    workspace = json.loads(listed(capsys, "--json"))[0]
    assert (workspace["PQ"], workspace["Δ PQ"]) == (1.5, 0.0)


def test_the_table_fits_120_columns_whatever_is_changed(project, capsys):
    long = "".join(f"  a_parameter_with_a_long_name_{number}: {'value' * 30}\n" for number in range(40))
    (project / "params.yaml").write_text(PARAMS.format(score=0.5, workers=1) + "prepare:\n" + long)
    lines = listed(capsys).splitlines()
    assert max(map(len, lines)) <= 120
    assert "workspace" in " ".join(lines)
    assert "+1.2" in " ".join(lines)
    workspace = json.loads(listed(capsys, "--json"))[0]
    assert workspace["changed params"].endswith(", … 28 more")


def test_an_unknown_system_is_refused(project, capsys):
    with pytest.raises(SystemExit):
        listed(capsys, "--system", "nobody")
    assert "--system nobody: no run has such a system" in capsys.readouterr().err


def test_changes_name_what_is_other_new_and_gone():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None, "runtime": {"workers": 1}}
    params = {"a": {"b": 1, "c": [1, "x"]}, "e": {"f": {}}, "runtime": {"workers": 2}}
    assert param_changes(params, base) == ["a.c=[1,x]", "e.f={}", "~d"]
    assert param_changes(base, base) == []
