"""The whole DAG by DVC, as people run it, and what DVC runs again."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dvc_project import checksums, dvc, environment, stages_run
from tests.pipeline.workspace import change_params, succeed
from tests.tiny_run import PROJECT, SYSTEMS


@pytest.fixture(scope="module")
def project(dvc_run, tmp_path_factory) -> Path:
    """A repository of its own whose DAG has run once."""
    return shutil.copytree(dvc_run, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)


def test_the_dag_ends_in_pq_of_every_system_a_page_and_whole_files_alone(project):
    summary = json.loads((project / "metrics" / "panoptic.json").read_text())
    assert tuple(summary) == SYSTEMS
    assert len(list((project / "data" / "fused" / "fusion" / "panoptic").glob("*.png"))) == 4
    assert len(list((project / "report" / "images").glob("*.js"))) == 4
    assert (project / "report" / "index.html").is_file()
    assert not list((project / "data").rglob("*.unfinished*"))
    assert not list((project / "data" / "unfinished").rglob("*.pth"))


def test_dvc_plots_confusion_and_curves(project, tmp_path):
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


def test_the_python_lines_of_the_readme_show_a_cached_prediction(project):
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    check = "\nassert best.mask.any() and best.mask.shape == cache[1000001].hw"
    command = [sys.executable, "-c", lines + check]
    shown = succeed(subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True))
    assert shown.stdout.endswith(" (64, 80)\n")


def test_its_bytes_are_those_of_one_process_with_other_numbers_of_workers_and_checkpoints(project, tiny_run):
    for folder in ("prepared", "models", "predictions", "routing", "calibration", "fused", "scores"):
        assert checksums(project / "data" / folder) == checksums(tiny_run / "data" / folder)
    for folder in ("metrics", "report"):
        found = checksums(project / folder)
        found.pop(".gitignore", None)
        assert found == checksums(tiny_run / folder)


def test_an_end_that_is_left_out_has_nothing_trained_or_predicted_again(project):
    params = project / "params.yaml"
    before = params.read_bytes()
    ends = ["e_ups", "lwl_htc"]
    change_params(params, params, ends=ends, predict={"separate_ends": ends}, train_hrnet_aspp={"members": []})
    output = dvc(project, "repro", "--dry")
    params.write_bytes(before)
    assert stages_run(output) == ["evaluate_heldout", "calibrate", "fuse", "score", "report"]
