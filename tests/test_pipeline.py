"""The whole DAG by DVC, as people run it, on a few tiny pictures and networks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SYSTEMS = ("e_ups", "lwl_htc", "fusion")
TINY_NETWORK = {
    "fpn_channels": 16,
    "train_proposals": 24,
    "rois_per_image": 16,
    "box_fc_channels": 16,
    "mask_convs": 1,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project, committed to a repository of its own, whose DAG has run once."""
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project")
    dvc(folder, "repro")
    commit(folder)
    return folder


def copy_project(folder: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and not name.startswith(("tests/", "metrics/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shrink(folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    commit(folder)
    return folder


def shrink(path: Path) -> None:
    yaml = YAML()
    params = yaml.load(path)
    params["prepare"]["scenes"] |= {"train_images": 9, "val_images": 3, "height_px": 64, "width_px": 80}
    params["prepare"]["heldout_images"] = 3
    networks = params["train_e_ups"]["networks"]["base"], params["train_lwl_htc"]["network"]
    for network in networks:
        network |= TINY_NETWORK
    networks[0]["semantic_channels"] = [8]
    params["train_hrnet_aspp"]["networks"]["base"] |= {"aspp_channels": 8, "stage1_channels": 8}
    for end in ("train_e_ups", "train_lwl_htc", "train_hrnet_aspp"):
        params[end]["schedule"] |= {"iterations": 8, "batch_size": 2, "warmup_iterations": 2}
        params[end]["augmentation"] |= {"short_sides_px": [64], "max_long_side_px": 96}
        params[end]["curve_interval"] = 2
    params["predict"] |= {"short_sides_px": [64], "max_long_side_px": 96, "max_proposals": 24, "min_score": 0.0}
    params["calibrate"] |= {"min_score": 0.05, "min_stuff_area_px": 16}
    params["fuse"] |= {"min_score": 0.05, "min_stuff_area_px": 16}
    params["runtime"] |= {"device": "cpu", "cpu_threads": 1, "checkpoint_interval": 2}
    yaml.dump(params, path)


def environment() -> dict[str, str]:
    # Stages call `python`: the one that runs the tests. They import the copy, not the installed package.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": ".", "DVC_NO_ANALYTICS": "1"}


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def commit(folder: Path) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["add", "--all"], ["commit", "--quiet", "--no-verify", "--message", "State"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def kill(folder: Path, *arguments: str, once: str) -> None:
    """Runs DVC and kills it and its stage by force once a file of that pattern is there."""
    running = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while not list(folder.glob(once)):
            assert running.poll() is None, "the stage ended before it could be killed"
            assert time.monotonic() < deadline, f"there never was {once}"
            time.sleep(0.005)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_a_training_killed_by_force_is_resumed_to_the_same_weights(project, tmp_path):
    folder = copy_project(tmp_path / "killed")
    dvc(folder, "repro", "prepare")
    kill(folder, "repro", "train_e_ups@base", once="data/unfinished/**/last_checkpoint")
    weights = Path("data/models/e_ups/base/weights.pth")
    assert not (folder / weights).exists()
    output = dvc(folder, "repro", "train_e_ups@base")
    assert stages_run(output) == ["train_e_ups@base"]
    assert (folder / weights).read_bytes() == (project / weights).read_bytes()
    assert checksums(folder / "data/models/e_ups/base") == checksums(project / "data/models/e_ups/base")


def test_a_prediction_killed_by_force_leaves_no_cache_and_is_made_again_to_the_same_bytes(project, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(project, folder, symlinks=True)
    cache = folder / "data/predictions/e_ups/val"
    stage = ("repro", "--single-item", "--force", "predict@e_ups-val")
    kill(folder, *stage, once="data/predictions/e_ups/val/.*.unfinished")
    assert not list(cache.glob("*.parquet"))
    assert list(cache.glob(".*.unfinished"))
    assert stages_run(dvc(folder, *stage)) == ["predict@e_ups-val"]
    assert checksums(cache) == checksums(project / "data/predictions/e_ups/val")


def test_a_third_end_of_semantics_alone_joins_the_fusion(project, tmp_path):
    folder = tmp_path / "three"
    shutil.copytree(project, folder, symlinks=True)
    three = "[e_ups,lwl_htc,hrnet_aspp]"
    switches = (f"ends={three}", f"predict.separate_ends={three}", "train_hrnet_aspp.members=[base]")
    switches += ("fuse.systems=[fusion]",)
    output = dvc(folder, "exp", "run", *(part for switch in switches for part in ("-S", switch)))
    ran = stages_run(output)
    of_the_end = ["train_hrnet_aspp@base", "predict@hrnet_aspp-heldout", "predict@hrnet_aspp-val"]
    assert sorted(ran) == sorted([*of_the_end, "evaluate_heldout", "calibrate", "fuse", "score", "report"])
    assert [path.name for path in (folder / "data/predictions/hrnet_aspp/val").iterdir()] == ["semantic.parquet"]
    segments = pq.read_table(folder / "data/fused/fusion/segments.parquet")["end"].to_pylist()
    assert set(segments) <= {"e_ups", "lwl_htc", "e_ups+lwl_htc+hrnet_aspp"}
    assert tuple(json.loads((folder / "metrics" / "panoptic.json").read_text())) == ("fusion",)


def test_the_python_lines_of_the_readme_show_a_cached_prediction(project):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
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
