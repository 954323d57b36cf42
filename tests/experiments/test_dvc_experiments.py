"""The tables by DVC: with stub stages what is run, kept, resumed and refused, and one row by the pipeline itself."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from antvisionps.cli.main import main as cli
from antvisionps.core import locks
from antvisionps.core.errors import AntVisionPSError
from antvisionps.experiments import tables
from antvisionps.experiments.dvc_experiments import open_clone
from antvisionps.experiments.run_tables import Plan, run_missing
from tests.dvc_project import commit, environment, lend_kernels

ROOT = Path(__file__).parents[2]

DVC_YAML = """
vars: [{prepared: data/prepared, imports: data/imports, models: data/models, predictions: data/predictions,
  routing: data/routing, calibration: data/calibration, fused: data/fused, scores: data/scores}]
stages:
  train_e_ups:
    cmd: python stages/train.py
    deps: [stages/train.py, library]
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


@pytest.fixture
def stub_project(tmp_path, monkeypatch) -> Path:
    """A project of two stages that take no time, with the built-in params but one, plain member; the working folder."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".gitignore", "params.yaml", ".dvc/config", ".dvc/.gitignore"):
        shutil.copyfile(ROOT / name, folder / name)
    params = (folder / "params.yaml").read_text().replace("  - base\n  - bfp_lsh\n", "  - base\n")
    (folder / "params.yaml").write_text(params.replace("balanced_pyramid_level: 2\n", "balanced_pyramid_level:\n"))
    texts = {"dvc.yaml": DVC_YAML, "stages/train.py": TRAIN, "stages/score.py": SCORE, "library/deep/a.py": "A = 1\n"}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    commit(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TEST_DIR", str(tmp_path))
    keep_rows(monkeypatch, 1)
    return folder


def keep_rows(monkeypatch, number):
    monkeypatch.setattr(tables, "_E_UPS_ROWS", ALL_ROWS[:number])


ALL_ROWS = tables._E_UPS_ROWS


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def experiments(folder: Path) -> list[str]:
    refs = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return sorted(ref.rpartition("/")[2] for ref in refs)


def steps_trained(folder: Path) -> str:
    log = folder.parent / "log"
    return log.read_text() if log.exists() else ""


def start(folder: Path) -> subprocess.Popen:
    """`antvisionps table 1` with its first row alone, in a process group of its own."""
    code = (
        "from antvisionps.experiments import tables; tables._E_UPS_ROWS = tables._E_UPS_ROWS[:1]; "
        "from antvisionps.cli.main import main; main(['table', '1'])"
    )
    paths = environment() | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=paths, start_new_session=True, **quiet)


def test_rows_become_named_experiments_and_a_table_and_nothing_else_changes(stub_project, monkeypatch):
    keep_rows(monkeypatch, 2)
    before = (stub_project / "params.yaml").read_bytes()
    cli(["table", "1"])
    bfp, vanilla = experiments(stub_project)
    assert bfp.startswith("params-table1-bfp-")
    assert vanilla.startswith("params-table1-vanilla-")
    rows = [line for line in Path("docs/tables/params.md").read_text().splitlines() if line.startswith("| efficient")]
    assert rows == [
        f"| efficientnet_lite0 vanilla | 40.00 | 30.00 | 0.00 | 45.0 | −5.0 | `{vanilla}` |",
        f"| efficientnet_lite0 + BFP | 41.00 | 30.00 | 0.00 | 45.7 | −4.7 | `{bfp}` |",
    ]
    assert git(stub_project, "status", "--porcelain") == "?? docs/\n"
    assert (stub_project / "params.yaml").read_bytes() == before
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True
    )
    assert {vanilla, bfp} <= {e["name"] for rev in json.loads(shown.stdout) for e in rev["experiments"] or []}

    cli(["table", "1"])  # all there
    keep_rows(monkeypatch, 1)
    cli(["table", "1", "-S", "fuse.min_score=0.4"])  # another experiment, whose training is there
    assert len(experiments(stub_project)) == 3
    assert steps_trained(stub_project) == "1 2 3 1 2 3 "


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("fuse.nope=1", "-S fuse.nope=1: Could not override 'fuse.nope'."),
        ("fuse.min_score", "-S fuse.min_score: "),
        ("fuse.min_score=${nope}", "-S fuse.min_score=${nope}: Interpolation key 'nope' not found"),
        ("fuse.min_score=7", "params.yaml, changed by the row and -S: fuse.min_score: "),
    ],
)
def test_a_change_with_a_mistake_is_named_in_one_line_before_anything_runs(stub_project, capfd, change, problem):
    with pytest.raises(SystemExit):
        cli(["table", "1", "-S", "fuse.min_score=0.4", "-S", change])
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {problem}")
    assert git(stub_project, "status", "--porcelain") == ""


def test_a_killed_run_goes_on_from_its_checkpoint_and_a_failed_one_is_told(stub_project, capfd):
    stuck, broken = (stub_project.parent / name for name in ("stuck", "broken"))
    stuck.touch()
    running = start(stub_project)
    while steps_trained(stub_project) != "1 2 ":
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    rwlock = stub_project / "data" / "tables" / ".dvc" / "tmp" / "rwlock"
    zombie = subprocess.Popen(["true"])  # as the killed process is where its parent does not ask for its status
    rwlock.write_text(re.sub(r'"pid": \d+', f'"pid": {zombie.pid}', rwlock.read_text()))
    assert str(zombie.pid) in rwlock.read_text()
    (stub_project / "data" / "tables" / ".git" / "index.lock").touch()
    assert git(stub_project, "status", "--porcelain") == "?? docs/\n"
    assert "not run yet" in Path("docs/tables/params.md").read_text()
    stuck.unlink()

    broken.touch()
    with pytest.raises(SystemExit):
        cli(["table", "1"])
    assert "error: experiment params-table1-vanilla-" in capfd.readouterr().err
    assert experiments(stub_project) == []
    assert steps_trained(stub_project) == "1 2 3 "
    assert zombie.wait() == 0
    broken.unlink()

    rwlock.write_text("")  # killed while it wrote the file
    cli(["table", "1"])
    assert steps_trained(stub_project) == "1 2 3 "
    assert "not run yet" not in Path("docs/tables/params.md").read_text()


def test_a_dvc_whose_command_was_killed_alone_keeps_the_clone_and_is_not_run_again(stub_project, monkeypatch, capfd):
    stuck = stub_project.parent / "stuck"
    stuck.touch()
    running = start(stub_project)
    while steps_trained(stub_project) != "1 2 ":
        assert running.poll() is None, "ended before it could be killed"
        time.sleep(0.02)
    running.kill()
    running.wait()
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    with pytest.raises(SystemExit):
        cli(["table", "1"])
    assert "error: data/tables: another process runs experiments there" in capfd.readouterr().err
    stuck.unlink()
    monkeypatch.setattr(locks, "WAIT_S", 240)
    cli(["table", "1"])
    assert steps_trained(stub_project) == "1 2 3 "
    assert "not run yet" not in Path("docs/tables/params.md").read_text()


def test_after_a_failure_the_other_experiments_run(capsys):
    first, second = (SimpleNamespace(name=name) for name in ("first", "second"))

    def run(experiment, profile):
        if experiment is first:
            raise AntVisionPSError("first failed")
        ran.append((experiment, profile))

    ran = []
    clone = SimpleNamespace(run=run, result_of=lambda _: None)
    plan = Plan(tables.Table("", []), Path("params.yaml"), [(first, second), (first, second)])
    assert list(run_missing([plan], clone)) == ["first failed", ""]
    assert ran == [(second, Path("params.yaml"))]
    assert capsys.readouterr().err == "experiment 1 of 2: first\nexperiment 2 of 2: second\n"


def name_of_row(project: Path, *changes: str) -> str:
    with open_clone(project, project / "data" / "tables") as clone:
        return clone.describe("row", project / "params.yaml", changes).name


def test_another_code_of_a_folder_that_is_a_dep_is_another_experiment(stub_project):
    name = name_of_row(stub_project)
    assert name_of_row(stub_project) == name
    module = stub_project / "library" / "deep" / "a.py"
    (stub_project / "README.md").write_text("No dep of a stage.\n")
    commit(stub_project)
    assert name_of_row(stub_project) == name
    module.write_text("A = 2\n")
    with pytest.raises(AntVisionPSError, match=r"code is changed but not committed.*\n.*M library/deep/a\.py"):
        name_of_row(stub_project)
    commit(stub_project)
    changed = name_of_row(stub_project)
    assert changed != name
    (stub_project / "library" / "deep" / "b.py").touch()
    with pytest.raises(AntVisionPSError, match=r"not committed.*\n\?\? library/deep/b\.py"):
        name_of_row(stub_project)
    commit(stub_project)
    assert name_of_row(stub_project) not in {name, changed}


def test_other_imported_predictions_and_params_are_other_experiments_but_another_runtime_is_not(stub_project):
    imported = stub_project / "data" / "imports" / "yolo" / "val" / "instances.json"
    imported.parent.mkdir(parents=True)
    changes = ["import_end.ends=[yolo]", "+fuse.semantic_weights.yolo=1.0", "+fuse.instance_weights.yolo=1.0"]
    names = []
    for text in ("[]", "[{}]"):
        imported.write_text(text)
        names.append(name_of_row(stub_project, *changes))
    names += [name_of_row(stub_project), name_of_row(stub_project, "fuse.min_score=0.4")]
    assert len(set(names)) == 4
    assert name_of_row(stub_project, "runtime.workers=7") == names[2]


def test_a_second_run_at_a_time_is_refused(stub_project, monkeypatch, capsys):
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    Path("data").mkdir()
    with Path("data/tables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            cli(["table", "1"])
    assert capsys.readouterr().err.startswith("error: data/tables: another process runs experiments there")


def test_the_pipeline_itself_makes_a_row(dvc_run, tmp_path):
    folder = shutil.copytree(dvc_run, tmp_path / "project", symlinks=True)
    with open_clone(folder, folder / "data" / "tables") as clone:
        lend_kernels(folder, clone.folder)
        git(clone.folder, "update-index", "-q", "--refresh")  # else a checkout writes the modules again
    assert start(folder).wait() == 0
    (name,) = experiments(folder)
    trained = folder / "data" / "tables" / "data" / "models"
    assert [path.name for path in trained.iterdir()] == ["e_ups"]
    (row,) = re.findall(r".*\| 45\.0 \| −.*", (folder / "docs" / "tables" / "params.md").read_text())
    assert row.endswith(f"`{name}` |")
    assert git(folder, "status", "--porcelain") == "?? docs/tables/\n"
