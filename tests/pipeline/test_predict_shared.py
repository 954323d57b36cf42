"""Stage predict_shared beside stage predict, and that DVC makes either from the params."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from antvisionps.core.errors import ModelError
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.training.weights import save_weights
from antvisionps.panoptic.splits import open_split

PROJECT = Path(__file__).parents[2]
PAIR = {"first": "e_ups", "second": "lwl_htc"}
NETWORK = {"fpn_channels": 16, "train_proposals": 24, "rois_per_image": 16, "box_fc_channels": 16, "mask_convs": 1}
FROZEN = {"weights": None, "frozen_stages": 4, "frozen_norm": True}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working folder with params of two ends on one frozen backbone, a prepared data set and untrained networks."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((PROJECT / "params.yaml").read_text())
    networks = {"e_ups": params["train_e_ups"]["networks"]["base"], "lwl_htc": params["train_lwl_htc"]["network"]}
    networks["e_ups"]["semantic_channels"] = [8]
    params["predict"] |= {"separate_ends": [], "shared_backbone": [PAIR], "flip": True, "min_score": 0.0}
    params["predict"] |= {"short_sides_px": [64], "max_long_side_px": 96, "max_proposals": 24}
    params["runtime"] |= {"device": "cpu", "cpu_threads": 1}
    yaml.dump(params, tmp_path / "params.yaml")
    sizes = {"train_images": 3, "val_images": 2, "height": 64, "width": 80}
    prepare_scenes(tmp_path / "data" / "prepared", seed=1, heldout_images=1, workers=1, **sizes)
    categories = open_split(tmp_path / "data" / "prepared", "val").categories
    classes = {"num_things": len(categories.things), "num_classes": len(categories)}
    for end, network in networks.items():
        network |= NETWORK
        network["backbone"] |= FROZEN
        torch.manual_seed(0)
        model = BUILDERS[end](**classes, test_proposals=24, **network)
        folder = tmp_path / "data" / "models" / end / "base"
        folder.mkdir(parents=True)
        described = {"end": end, "categories": categories.to_json(), "network": network} | classes
        save_weights(folder, model, network=described)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_stage(name: str, *options: str) -> None:
    """What the stage's script does, in this process."""
    script = str(PROJECT / "stages" / f"{name}.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [script, "--prepared", "data/prepared", "--split", "val", *options])
        runpy.run_path(script, run_name="stage")["main"]()


SHARED = ("predict_shared", "--ends", "e_ups", "lwl_htc", "--models", "data/models", "--predictions", "shared")


def test_both_stages_write_the_same_caches_to_the_same_places(project):
    for end in PAIR.values():
        run_stage("predict", "--end", end, "--models", f"data/models/{end}", "--out", f"separate/{end}/val")
    run_stage(*SHARED)
    found = {
        folder: {str(p.relative_to(project / folder)): p.read_bytes() for p in (project / folder).rglob("*.parquet")}
        for folder in ("separate", "shared")
    }
    assert len(found["shared"]) == 4
    assert found["shared"] == found["separate"]


def test_backbones_that_differ_are_one_error_and_write_nothing(project):
    path = project / "data" / "models" / "lwl_htc" / "base" / "weights.pth"
    state = torch.load(path, weights_only=True)
    state["backbone.network.bn1.bias"] += 1
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"lwl_htc/base: cannot share .* backbone\.network\.bn1\.bias differs; train"):
        run_stage(*SHARED)
    assert not (project / "shared").exists()


def test_dvc_makes_a_stage_of_each_end_that_is_separate_and_of_each_pair(tmp_path):
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((PROJECT / "params.yaml").read_text())
    params["predict"] |= {"separate_ends": ["other"], "shared_backbone": [PAIR]}
    yaml.dump(params, tmp_path / "params.yaml")
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    for command in (["init", "--no-scm", "--quiet"], ["stage", "list"]):
        called = [sys.executable, "-m", "dvc", *command]
        listed = subprocess.run(called, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert listed.returncode == 0, listed.stderr
    rows = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    stages = {name for name in rows if name.startswith("predict") and name.endswith("-val")}
    assert stages == {"predict@other-val", "predict_shared@pair0-val"}
    outs = {out.strip(",") for name in stages for out in rows[name].split()}
    assert {f"data/predictions/{end}/val" for end in ("other", *PAIR.values())} <= outs
