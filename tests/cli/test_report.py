"""`antvisionps report`: runs out of DVC's cache and out of folders."""

import json
import re
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from tests.dvc_project import commit, dvc
from tests.report.test_page_data import unpacked

PATHS = "vars:\n" + "".join(
    f"- {name}: data/{name}\n"
    for name in ("prepared", "imports", "models", "predictions", "routing", "calibration", "fused", "scores")
)


@pytest.fixture
def project(tiny_run, tmp_path, monkeypatch):
    """Two commits of a run, whose photos in the page are of other quality; the present folder has no maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc(tmp_path, "init", "--quiet")
    (tmp_path / "dvc.yaml").write_text(PATHS)
    (tmp_path / ".gitignore").write_text("/data/prepared\n")
    for name in ("data/fused", "data/prepared", "data/scores", "metrics"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    dvc(tmp_path, "add", "--quiet", "data/fused", "data/scores")
    params = (tiny_run / "params.yaml").read_text()
    for quality in (71, 72):
        (tmp_path / "params.yaml").write_text(re.sub(r"(photo_quality): \d+", rf"\1: {quality}", params))
        commit(tmp_path)
    shutil.rmtree(tmp_path / "data" / "fused")
    return tmp_path


def test_a_commit_and_a_folder_are_compared(project, capsys):
    subprocess.run(["git", "update-ref", f"refs/exps/00/{'0' * 38}/calm-otter", "HEAD~1"], check=True)
    cli.main(["report", "calm-otter", "HEAD", ".", "--out", "page"])
    assert "written: page/index.html" in capsys.readouterr().out
    overview = unpacked(project / "page" / "data" / "overview.js")
    assert overview["systems"] == ["calm-otter", "HEAD", "."]
    assert overview["mapped"] == ["calm-otter", "HEAD"]
    facts = [dict(run["facts"]) for run in overview["compared"]]
    commits = [subprocess.check_output(["git", "rev-parse", rev], text=True).strip() for rev in ("HEAD~1", "HEAD")]
    assert [of_run.get("commit") for of_run in facts] == [*commits, None]
    changed = ["report.photo_quality=72"]
    assert [of_run.get("params") for of_run in facts] == [None, changed, changed]
    assert [of_run["system"] for of_run in facts] == ["fusion"] * 3
    summary = json.loads((project / "metrics/panoptic.json").read_text())["fusion"]
    for name in overview["systems"]:
        for group, measures in summary.items():
            assert overview["metrics"]["summary"][name][group] == pytest.approx(measures)


def test_no_cluster_gets_the_maps_of_a_revision_which_lie_on_this_machine(project, capsys):
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["runtime"] |= {"backend": "dask", "cluster": "tcp://127.0.0.1:1"}
    yaml.dump(params, project / "params.yaml")
    cli.main(["report", "HEAD", "--out", "page"])
    assert "written: page/index.html" in capsys.readouterr().out
    assert unpacked(project / "page" / "data" / "overview.js")["mapped"] == ["HEAD"]


def test_what_cannot_be_compared_is_said_in_a_line(project, refused):
    assert "revision nowhere: no commit, tag, branch or experiment of that name here" in refused("report", "nowhere")
    assert "HEAD is named twice" in refused("report", "HEAD", "HEAD")
    assert "run HEAD has no system mine, but" in refused("report", "HEAD", "--system", "mine")
    shutil.rmtree(project / ".dvc" / "cache")
    said = refused("report", "HEAD")
    assert "per_image.parquet of revision" in said
    assert "not in DVC's cache" in said
    assert not (project / "comparison").exists()
