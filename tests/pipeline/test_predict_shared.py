"""Two ends in one pass beside each alone, and that DVC makes stages of either from the params."""

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.models.blocks.backbones import EfficientNetLite0
from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.training.weights import save_weights
from antvisionps.panoptic.splits import open_split
from tests.dvc_project import dvc
from tests.pipeline.workspace import bytes_below, change_params
from tests.tiny_run import PROJECT, shrink

PAIR = {"first": "e_ups", "second": "lwl_htc"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working folder with params of two ends on one frozen backbone, a prepared data set and untrained networks."""
    yaml = YAML(typ="safe")
    params = yaml.load(PROJECT / "params.yaml")
    shrink(params)
    params["ends"], params["train_hrnet_aspp"]["members"] = [*PAIR.values()], []
    params["predict"] |= {"separate_ends": [], "shared_backbone": [PAIR]}
    params["predict"] |= {"short_sides_px": [64, 96], "flip": True}
    yaml.dump(params, tmp_path / "params.yaml")
    networks = {end: params[f"train_{end}"]["networks"]["base"] for end in ("e_ups", "lwl_htc")}
    sizes = {"train_images": 3, "val_images": 2, "height": 64, "width": 80}
    prepare_scenes(tmp_path / "data" / "prepared", seed=1, heldout_images=1, workers=1, **sizes)
    categories = open_split(tmp_path / "data" / "prepared", "val").categories
    classes = {"num_things": len(categories.things), "num_classes": len(categories)}
    for end, network in networks.items():
        del network["load_from"]
        network["backbone"] |= {"weights": None, "frozen_stages": 4, "frozen_norm": True}
        torch.manual_seed(0)
        model = BUILDERS[end](**classes, test_proposals=24, **network)
        folder = tmp_path / "data" / "models" / end / "base"
        folder.mkdir(parents=True)
        described = {"end": end, "categories": categories.to_json(), "network": network} | classes
        save_weights(folder, model, network=described)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*ends: str, out: str) -> None:
    """What the stage's script does, in this process."""
    script = str(PROJECT / "stages" / "predict.py")
    places = ["--prepared", "data/prepared", "--models", "data/models", "--work", "unfinished", "--predictions", out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [script, *places, "--ends", *ends])
        runpy.run_path(script, run_name="stage")["main"]()


def test_both_ways_write_the_same_caches_and_the_shared_one_computes_the_backbone_once_a_view(project, monkeypatch):
    passes = []
    forward = EfficientNetLite0.forward
    monkeypatch.setattr(EfficientNetLite0, "forward", lambda *args: passes.append(1) or forward(*args))
    for end in PAIR.values():
        predict(end, out="separate")
    predict(*PAIR.values(), out="shared")
    assert len(passes) == (2 + 1) * 4 * (1 + 2)  # ends, views, images
    shared = bytes_below(project / "shared")
    assert len(shared) == 8
    assert shared == bytes_below(project / "separate")


def test_dvc_makes_a_stage_of_each_separate_end_each_pair_and_each_imported_end(tmp_path):
    predict = {"separate_ends": ["other"], "shared_backbone": [PAIR]}
    change_params(PROJECT / "params.yaml", tmp_path / "params.yaml", predict=predict, import_end={"ends": ["mine"]})
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    listed = dvc(tmp_path, "stage", "list").splitlines()
    rows = dict(line.split(maxsplit=1) for line in listed if line.startswith(("predict", "import_end")))
    assert rows.keys() == {"predict@other", "predict_shared@pair0", "import_end@mine-heldout", "import_end@mine-val"}
    outs = {out.strip(",") for listed in rows.values() for out in listed.split()}
    assert {f"data/predictions/{end}" for end in ("other", "mine/heldout", "mine/val", *PAIR.values())} <= outs
