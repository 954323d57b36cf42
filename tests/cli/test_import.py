"""`antvisionps import`: folders of another tool become an end, or nothing changes."""

import difflib
import json
import shutil
from pathlib import Path

import pytest

from antvisionps.cli import main as cli
from antvisionps.params.whole import load_params
from tests.pipeline.workspace import PROJECT, bytes_below, export_cache

PARAMS = PROJECT / "profiles" / "built_in.yaml"


@pytest.fixture
def project(done, tmp_path, monkeypatch):
    """A project that is prepared, and beside it what a tool wrote of both splits."""
    folder = tmp_path / "project"
    shutil.copytree(done.prepared, folder / "data" / "prepared")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    shutil.copy(PARAMS, folder / "params.yaml")
    for split in ("val", "heldout"):
        export_cache(done.root, "e_ups", split, tmp_path / split)
    monkeypatch.chdir(folder)
    return folder


def test_both_splits_become_an_end_and_params_change_in_one_place(project, tmp_path, capsys):
    cli.main(["import", "eomt", "--val", str(tmp_path / "val"), "--heldout", str(tmp_path / "heldout")])
    out = capsys.readouterr().out
    assert "5 of 5 images of val are read and fit" in out
    assert "8 of 8 images of heldout are read and fit" in out
    for split in ("val", "heldout"):
        assert bytes_below(project / "data" / "imports" / "eomt" / split) == bytes_below(tmp_path / split)
    texts = (path.read_text().splitlines() for path in (PARAMS, project / "params.yaml"))
    changed = [line for line in difflib.ndiff(*texts) if line[0] in "+-"]
    assert changed == ["-   ends: []", "+   ends:", "+   - eomt"]
    assert load_params(project / "params.yaml").import_end.ends == ("eomt",)
    cli.main(["import", "other", "--val", str(tmp_path / "val"), "--heldout", str(tmp_path / "heldout")])
    assert load_params(project / "params.yaml").import_end.ends == ("eomt", "other")


def test_a_split_alone_waits_for_the_other(project, tmp_path, capsys):
    cli.main(["import", "eomt", "--val", str(tmp_path / "val")])
    assert (
        "first: the same of the other split; `dvc repro` needs data/imports/eomt/heldout too" in capsys.readouterr().out
    )
    assert (project / "params.yaml").read_bytes() == PARAMS.read_bytes()
    heldout = Path("data/imports/eomt/heldout")
    shutil.copytree(tmp_path / "heldout", heldout)
    cli.main(["import", "eomt", "--heldout", str(heldout)])
    assert "copied" not in capsys.readouterr().out
    assert load_params(project / "params.yaml").import_end.ends == ("eomt",)
    before = (project / "params.yaml").read_bytes()
    cli.main(["import", "eomt", "--val", str(tmp_path / "val")])
    assert (project / "params.yaml").read_bytes() == before


def test_what_does_not_fit_is_one_line_and_changes_nothing(project, tmp_path, refused):
    val, heldout = (str(tmp_path / split) for split in ("val", "heldout"))
    shutil.copytree(val, tmp_path / "spoilt")
    shutil.rmtree(tmp_path / "spoilt" / "semantic")
    before = bytes_below(project)
    both, spoilt = ["import", "eomt", "--heldout", heldout, "--val"], str(tmp_path / "spoilt")
    assert "eomt: semantics of the held-out images or of the others, not of both" in refused(*both, spoilt)
    (tmp_path / "spoilt" / "instances.json").write_text(json.dumps([{"image_id": 1}]))
    assert "result 0: image_id 1 is not in this split" in refused(*both, spoilt)
    assert "nowhere: no such folder" in refused(*both, str(tmp_path / "nowhere"))
    assert "expected --val DIR, --heldout DIR or both" in refused("import", "eomt")
    names = {
        "fusion": "cannot be called fusion",
        "e_ups": "lists e_ups twice",
        "hrnet_aspp": "hrnet_aspp",
        "a/b": "a/b",
    }
    for name, match in names.items():
        assert match in refused("import", name, "--val", val)
    assert bytes_below(project) == before
    shutil.rmtree(project / "data" / "prepared")
    assert "dvc repro" in refused(*both, val)
