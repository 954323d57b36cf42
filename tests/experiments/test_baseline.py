"""When HEAD's results are another machine's."""

import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.experiments.baseline import foreign_baseline
from tests.dvc_project import commit
from tests.tiny_run import PROJECT

SUMMARY = '{"e_ups": {"All": {"PQ": %s, "SQ": 80.0, "RQ": 50.0}}}\n'
COMMIT = "`git commit -am 'My baseline'`"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """After `make repro` of a clone on a machine like the author's: nothing differs from HEAD."""
    folder = tmp_path / "project"
    for name in ("antvisionps", "stages", "metrics"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    for name in ("params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(PROJECT / name, folder)
    (folder / "metrics" / "panoptic.json").write_text(SUMMARY % 40)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


def train_otherwise(project: Path) -> None:
    """What a run leaves behind on a machine that trains other weights."""
    yaml = YAML()
    lock = yaml.load(project / "dvc.lock")
    lock["stages"]["train_lwl_htc@base"]["outs"][0]["md5"] = "0" * 32 + ".dir"
    yaml.dump(lock, project / "dvc.lock")
    (project / "metrics" / "panoptic.json").write_text(SUMMARY % 41)


def fuse_otherwise(project: Path) -> None:
    """What `dvc exp run -S fuse.max_overlap_frac=0.3` and `git checkout params.yaml` leave behind."""
    yaml = YAML()
    lock = yaml.load(project / "dvc.lock")
    lock["stages"]["fuse"]["params"]["params.yaml"]["fuse"]["max_overlap_frac"] = 0.3
    yaml.dump(lock, project / "dvc.lock")
    (project / "metrics" / "panoptic.json").write_text(SUMMARY % 41)


def set_param(project: Path) -> None:
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("  max_overlap_frac: 0.5 # an", "  max_overlap_frac: 0.3 # an"))


def test_results_that_are_heads_need_no_word(project):
    assert foreign_baseline(project) == ""
    set_param(project)
    assert foreign_baseline(project) == ""


def test_another_machines_results_are_told_until_a_commit_makes_the_run_the_baseline(project, capsys):
    train_otherwise(project)
    cli.main(["results", "metrics/panoptic.json"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning: HEAD's results are another machine's: train_lwl_htc@base gave something else")
    assert last.endswith(f"to compare with your own run, {COMMIT}")
    commit(project)
    cli.main(["results", "metrics/panoptic.json"])
    assert "warning" not in capsys.readouterr().out


def test_a_changed_param_or_code_explains_other_metrics(project):
    (project / "metrics" / "panoptic.json").write_text(SUMMARY % 41)
    assert "neither params nor code differ" in foreign_baseline(project)
    set_param(project)
    assert foreign_baseline(project) == ""
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], check=True)
    (project / "antvisionps" / "file").write_text("changed")
    assert foreign_baseline(project) == ""


def test_a_changed_param_of_the_fusion_does_not_explain_other_weights(project):
    train_otherwise(project)
    set_param(project)
    assert "another machine's: train_lwl_htc@base gave" in foreign_baseline(project)
    assert f"run `make repro` without your changes, then {COMMIT}" in foreign_baseline(project)


def test_an_experiments_results_need_no_word_though_its_params_are_taken_back(project):
    fuse_otherwise(project)
    assert foreign_baseline(project) == ""
    train_otherwise(project)
    assert f"run `make repro` without your changes, then {COMMIT}" in foreign_baseline(project)


def test_without_git_or_results_in_head_there_is_nothing_to_compare_with(project, tmp_path, monkeypatch):
    train_otherwise(project)
    subprocess.run(["git", "rm", "--quiet", "-r", "--cached", "metrics", "dvc.lock"], check=True)
    subprocess.run(["git", "commit", "--quiet", "-m", "None"], check=True)
    assert foreign_baseline(project) == ""
    shutil.rmtree(project / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert foreign_baseline(project) == ""


def test_make_repro_ends_in_the_results():
    command = ["make", "--no-print-directory", "-n", "repro"]
    planned = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert planned.splitlines()[-1] == "antvisionps results metrics/panoptic.json"
