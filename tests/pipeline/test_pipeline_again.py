"""What DVC runs again after a stage was killed, or when another end joins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.dvc_project import checksums, copy_project, dvc, environment, stages_run


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


def test_a_training_killed_by_force_is_resumed_to_the_same_weights(request, tmp_path):
    folder = copy_project(tmp_path / "killed")
    dvc(folder, "repro", "prepare")
    kill(folder, "repro", "train_e_ups@base", once="data/unfinished/**/last_checkpoint")
    weights = Path("data/models/e_ups/base/weights.pth")
    assert not (folder / weights).exists()
    output = dvc(folder, "repro", "train_e_ups@base")
    assert stages_run(output) == ["train_e_ups@base"]
    dvc_run = request.getfixturevalue("dvc_run")  # late: another worker makes it meanwhile
    assert (folder / weights).read_bytes() == (dvc_run / weights).read_bytes()
    assert checksums(folder / "data/models/e_ups/base") == checksums(dvc_run / "data/models/e_ups/base")


def test_a_prediction_killed_by_force_leaves_no_cache_and_is_made_again_to_the_same_bytes(dvc_run, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(dvc_run, folder, symlinks=True)
    cache = folder / "data/predictions/e_ups/val"
    stage = ("repro", "--single-item", "--force", "predict@e_ups-val")
    kill(folder, *stage, once="data/predictions/e_ups/val/.*.unfinished")
    assert not list(cache.glob("*.parquet"))
    assert list(cache.glob(".*.unfinished"))
    assert stages_run(dvc(folder, *stage)) == ["predict@e_ups-val"]
    assert checksums(cache) == checksums(dvc_run / "data/predictions/e_ups/val")


def test_a_third_end_of_semantics_alone_joins_the_fusion(dvc_run, tmp_path):
    folder = tmp_path / "three"
    shutil.copytree(dvc_run, folder, symlinks=True)
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
