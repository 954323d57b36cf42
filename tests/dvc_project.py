"""Copies of the project that run by DVC on a few tiny pictures and networks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
TINY_NETWORK = {
    "fpn_channels": 16,
    "train_proposals": 24,
    "rois_per_image": 16,
    "box_fc_channels": 16,
    "mask_convs": 1,
}


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
