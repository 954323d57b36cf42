"""The whole DAG by DVC, as people run it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dvc_project import checksums, dvc, environment, stages_run
from tests.tiny_run import PROJECT, SYSTEMS


@pytest.fixture(scope="module")
def project(dvc_run, tmp_path_factory) -> Path:
    """A repository of its own whose DAG has run once."""
    return shutil.copytree(dvc_run, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)


def test_the_dag_ends_in_pq_of_every_system_and_whole_files_alone(project):
    summary = json.loads((project / "metrics" / "panoptic.json").read_text())
    assert tuple(summary) == SYSTEMS
    assert all(0 <= groups["All"]["PQ"] <= 100 for groups in summary.values())
    assert len(list((project / "data" / "fused" / "fusion" / "panoptic").glob("*.png"))) == 3
    assert not list((project / "data").rglob("*.unfinished"))
    assert not list((project / "data" / "unfinished").rglob("*.pth"))


def test_the_report_has_a_page_for_every_image_and_dvc_plots_its_confusion_and_curves(project, tmp_path):
    assert len(list((project / "report" / "images").glob("*.js"))) == 3
    assert (project / "report" / "index.html").is_file()
    dvc(project, "plots", "show", "--out", str(tmp_path / "plots"))
    shown = (tmp_path / "plots" / "index.html").read_text()
    for title in ("PQ of every system", "Which category the pixels", "Training loss"):
        assert title in shown
    for end in ("e_ups", "lwl_htc"):
        assert re.search(rf'"end": "{end}", "member": "base", "step": "2", "loss": "[0-9.]+"', shown)


def test_a_second_repro_runs_nothing(project):
    output = dvc(project, "repro")
    assert stages_run(output) == []
    assert "up to date" in output


def test_a_fusion_parameter_runs_fusion_and_scoring_alone(project):
    before = (project / "metrics" / "panoptic.json").read_bytes()
    output = dvc(project, "exp", "run", "-S", "fuse.min_score=0.9")
    assert stages_run(output) == ["fuse", "score", "report"]
    shown = json.loads(dvc(project, "metrics", "diff", "--json"))
    assert "metrics/panoptic.json" in shown
    subprocess.run(["git", "checkout", "--quiet", "--", "."], cwd=project, check=True)
    # DVC gives back what it has cached; the metrics are in git, so that scoring may run again.
    assert set(stages_run(dvc(project, "repro"))) <= {"score"}
    assert (project / "metrics" / "panoptic.json").read_bytes() == before


def test_fusion_score_and_report_again_give_the_same_bytes(project):
    """test_same_bytes.py does it for the stages before."""
    folders = ("data/fused", "data/overlays", "metrics", "report")
    before = {name: checksums(project / name) for name in folders}
    stages = ["fuse", "score", "report"]
    assert stages_run(dvc(project, "repro", "--force", "--single-item", *stages)) == stages
    assert {name: checksums(project / name) for name in folders} == before


def test_the_python_lines_of_the_readme_show_a_cached_prediction(project):
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    check = "\nassert best.mask.any() and best.mask.shape == cache[1000001].hw"
    command = [sys.executable, "-c", lines + check]
    shown = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith(" (64, 80)\n")


def test_a_prediction_that_was_cut_off_is_never_read(project, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(project, folder, symlinks=True)
    cache = folder / "data" / "predictions" / "e_ups" / "val" / "semantic.parquet"
    whole = cache.read_bytes()
    cache.unlink()
    cache.write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "stages/fuse.py", "--system", "e_ups", "--prepared", "data/prepared"]
    command += ["--predictions", "data/predictions", "--out", "data/fused/e_ups"]
    before = checksums(folder / "data" / "fused")
    failed = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert "semantic.parquet" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert checksums(folder / "data" / "fused") == before
