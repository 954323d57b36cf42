"""The tables by DVC: with stub stages what is run, kept, resumed and refused, and one row by the pipeline itself."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from antvisionps.cli import main as cli
from antvisionps.experiments import report_tables
from tests.dvc_project import commit, copy_project, environment

ROOT = Path(__file__).parents[2]

DVC_YAML = """
vars: [{prepared: data/prepared, imports: data/imports, models: data/models, predictions: data/predictions,
  routing: data/routing, calibration: data/calibration, fused: data/fused}]
stages:
  train_e_ups:
    cmd: python stages/train.py
    deps: [stages/train.py]
    params: [train_e_ups.networks.base]
    outs: [data/models/e_ups/base]
  score:
    cmd: python stages/score.py
    deps: [data/models/e_ups/base, stages/score.py]
    params: [fuse]
    metrics: [{metrics/panoptic.json: {cache: false}}]
"""

TRAIN = """
import os, pathlib, time
log, stuck = (pathlib.Path(os.environ["TEST_DIR"]) / name for name in ("log", "stuck"))
step_file = pathlib.Path("data/unfinished/step")
step = int(step_file.read_text()) if step_file.exists() else 0
while step < 3:
    step += 1
    step_file.parent.mkdir(parents=True, exist_ok=True)
    step_file.with_suffix(".new").write_text(str(step))
    step_file.with_suffix(".new").replace(step_file)  # a kill leaves no half of it
    log.write_text((log.read_text() if log.exists() else "") + f"{step} ")
    while stuck.exists() and step == 2:
        time.sleep(0.05)
if (pathlib.Path(os.environ["TEST_DIR"]) / "broken").exists():
    raise SystemExit(1)
out = pathlib.Path("data/models/e_ups/base")
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(pathlib.Path("params.yaml").read_text())
step_file.unlink()
"""

SCORE = """
import json, pathlib
pq = 40.0 + ("balanced_pyramid_level: 2" in pathlib.Path("data/models/e_ups/base").read_text())
pathlib.Path("metrics").mkdir(exist_ok=True)
groups = {"All": {"PQ": pq}, "Things": {"PQ": 30.0}, "Stuff": {"PQ": None}}
pathlib.Path("metrics/panoptic.json").write_text(json.dumps({"e_ups": groups}))
"""

TWO_ROWS = "dataclasses.replace(r.TABLES[0], rows=r.TABLES[0].rows[:2])"
ONE_ROW = "dataclasses.replace(r.TABLES[0], rows=r.TABLES[0].rows[:1])"


@pytest.fixture
def stub_project(tmp_path, monkeypatch) -> Path:
    """A project of two stages that take no time, with the built-in params; the working folder."""
    folder = tmp_path / "project"
    (folder / "stages").mkdir(parents=True)
    (folder / ".dvc").mkdir()
    for name in (".gitignore", "params.yaml", ".dvc/config", ".dvc/.gitignore"):
        shutil.copyfile(ROOT / name, folder / name)
    for name, text in (("dvc.yaml", DVC_YAML), ("stages/train.py", TRAIN), ("stages/score.py", SCORE)):
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    commit(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TEST_DIR", str(tmp_path))
    table = report_tables.TABLES[0]
    monkeypatch.setattr(report_tables, "TABLES", (dataclasses.replace(table, rows=table.rows[:2]),))
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def experiments(folder: Path) -> list[str]:
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return sorted(ref.rpartition("/")[2] for ref in refs)


def steps_trained(folder: Path) -> str:
    log = folder.parent / "log"
    return log.read_text() if log.exists() else ""


def start(folder: Path, tables: str) -> subprocess.Popen:
    """`antvisionps table 1` in a process group of its own, with these tables for the report's."""
    code = (
        "import dataclasses, sys; from antvisionps.experiments import report_tables as r; "
        f"r.TABLES = ({tables},); from antvisionps.cli.main import main; main(['table', '1'])"
    )
    paths = environment() | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=paths,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_when(running: subprocess.Popen, is_time) -> None:
    try:
        deadline = time.monotonic() + 240
        while not is_time():
            assert running.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_rows_become_named_experiments_and_a_table_and_nothing_else_changes(stub_project):
    before = (stub_project / "params.yaml").read_bytes()
    cli.main(["table", "1"])
    bfp, vanilla = experiments(stub_project)
    assert bfp.startswith("params-table1-bfp-")
    assert vanilla.startswith("params-table1-vanilla-")
    rows = [line for line in Path("docs/tables/params.md").read_text().splitlines() if "efficientnet" in line]
    assert rows == [
        f"| efficientnet_lite0 | vanilla | 40.0 (30.0 / 0.0) | 45.0 | −5.0 | `{vanilla}` |",
        f"| efficientnet_lite0 | + BFP | 41.0 (30.0 / 0.0) | 45.7 | −4.7 | `{bfp}` |",
    ]
    assert git(stub_project, "status", "--porcelain") == "?? docs/\n"
    assert (stub_project / "params.yaml").read_bytes() == before
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "

    cli.main(["table", "1"])  # all there
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True
    )
    assert {vanilla, bfp} <= {e["name"] for rev in json.loads(shown.stdout) for e in rev["experiments"] or []}

    # Another threshold is another experiment, whose training is there.
    text = before.decode()
    (stub_project / "params.yaml").write_text(text.replace("min_score: 0.5 # an inst", "min_score: 0.4 # an inst"))
    cli.main(["table", "1"])
    assert len(experiments(stub_project)) == 4
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "


def test_a_killed_run_goes_on_from_its_checkpoint(stub_project):
    stuck = stub_project.parent / "stuck"
    stuck.touch()
    kill_when(start(stub_project, TWO_ROWS), lambda: steps_trained(stub_project) == "1 2 ")
    assert git(stub_project, "status", "--porcelain") == "?? docs/\n"
    assert "not run yet" in Path("docs/tables/params.md").read_text()
    stuck.unlink()
    cli.main(["table", "1"])
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "
    assert "not run yet" not in Path("docs/tables/params.md").read_text()


def test_a_row_that_fails_is_told_at_the_end(stub_project, capfd):
    (stub_project.parent / "broken").touch()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["table", "1"])
    assert stopped.value.code == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: experiment params-")]
    assert len(errors) == 2
    assert experiments(stub_project) == []


def test_changed_code_and_a_second_run_at_a_time_are_refused(stub_project, capsys):
    Path("data").mkdir()
    with Path("data/tables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            cli.main(["table", "1"])
    assert capsys.readouterr().err.startswith("error: data/tables: another process runs experiments there")
    Path("stages/score.py").write_text("raise SystemExit(1)\n")
    with pytest.raises(SystemExit):
        cli.main(["table", "1"])
    assert capsys.readouterr().err.startswith("error: code is changed but not committed")


def test_the_pipeline_itself_makes_a_row_after_its_training_was_killed(tmp_path):
    folder = copy_project(tmp_path / "project")
    unfinished = folder / "data" / "tables" / "data" / "unfinished"
    kill_when(start(folder, ONE_ROW), lambda: list(unfinished.rglob("last_checkpoint")))
    assert start(folder, ONE_ROW).wait() == 0
    (name,) = experiments(folder)
    trained = folder / "data" / "tables" / "data" / "models"
    assert [path.name for path in trained.iterdir()] == ["e_ups"]
    text = (folder / "docs" / "tables" / "params.md").read_text()
    assert "| 45.0 | −" in text
    assert f"`{name}` |" in text
    assert git(folder, "status", "--porcelain") == "?? docs/tables/\n"
