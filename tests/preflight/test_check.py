"""`antvisionps check` on tiny params, on params that cannot run, and on a network of the report's."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.params.profiles import read_params
from antvisionps.params.whole import load_params
from antvisionps.preflight import dry_run
from antvisionps.preflight.images import find_images
from antvisionps.preflight.networks import networks_of
from tests.tiny_run import write_tiny_params

PAPER = Path(__file__).parents[2] / "profiles" / "coco_paper.yaml"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs the command on changed params, on the CPU and offline, and returns its exit status and what it prints."""

    def offline(*_, **__):
        raise OSError("no network")

    def run(source, change=lambda params: None):
        params = read_params(source)
        change(params)
        YAML(typ="safe", pure=True).dump(params, tmp_path / "params.yaml")
        status = 0
        try:
            cli.main(["check"])
        except SystemExit as stopped:
            status = stopped.code
        return status, " ".join(capsys.readouterr().out.replace("│", " ").split())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "select_device", lambda _choice, cpu_threads: torch.device("cpu"))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    return run


@pytest.fixture
def tiny_params(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_tiny_params(tmp_path / "elsewhere" / "params.yaml")
    return tmp_path / "elsewhere" / "params.yaml"


def test_tiny_params_of_three_ends_pass_with_times_and_sizes(check, tiny_params, tmp_path):
    status, out = check(tiny_params)
    assert status == 0
    for end in ("e_ups", "lwl_htc", "hrnet_aspp"):
        assert f"{end} base builds, learns and predicts on cpu" in out
        assert f"{end} base: training" in out
    for words in ("8 iterations x 1 batches", "6 + 3 + 4", "ok disk"):
        assert words in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "params.yaml"]


def test_a_network_that_cannot_be_built_fails_the_check_and_the_others_are_tried(check, tiny_params):
    def break_it(params):
        params["ends"] = params["predict"]["separate_ends"] = ["e_ups", "lwl_htc"]
        params["train_e_ups"]["networks"]["base"]["backbone"]["name"] = "vgg"

    status, out = check(tiny_params, break_it)
    assert status == 1
    assert "wrong e_ups base fails: unknown backbone vgg" in out
    assert "ok lwl_htc base" in out


def test_a_network_of_the_paper_takes_a_step_and_missing_data_and_weights_fail_the_check(check, monkeypatch):
    """ResNet-50 alone; the others differ in size, and tests/models/e_ups/test_table_1.py steps them."""

    def one_member(params):
        params["train_e_ups"]["members"] = ["r50"]
        params["predict"]["member_weights"]["e_ups"] = {"r50": 1.0}
        params["ends"] = params["predict"]["separate_ends"] = params["fuse"]["systems"] = ["e_ups"]

    monkeypatch.setattr(dry_run, "imagenet_weights", lambda name: SimpleNamespace(file=None, url=f"https://x/{name}"))
    status, out = check(PAPER, one_member)
    assert status == 1
    for words in (
        "ok e_ups r50 builds, learns and predicts on cpu",
        "e_ups r50: memory of a step",
        "4 x 832 x 1109 px",
        "e_ups r50: time unknown needs a GPU",
        "113,287 + 5,000 + 5,000",
        "wrong data data/coco/train2017: not there",
        "https://x/resnet50 cannot be reached: no network",
        "antvisionps download coco --to data/coco",
        "note optimizer.autocast",
    ):
        assert words in out


def test_every_network_that_the_paper_trains_is_listed_with_its_weights():
    listed = list(networks_of(load_params(PAPER)))
    members = [f"e_ups {name}" for name in ("r50", "r101_dcn", "r101_dcn_bfp_lsh", "se154_lsh")]
    assert [network.name for network in listed] == [*members, "lwl_htc base"]
    assert {network.backbone for network in listed} == {"resnet50", "resnet101", "senet154"}


@pytest.mark.parametrize(
    ("backbone", "host"),
    [
        ("resnet50", "download.pytorch.org"),
        ("resnet101", "download.pytorch.org"),
        ("senet154", "github.com"),
        ("timm:hrnet_w48", "huggingface.co"),
    ],
)
def test_imagenet_weights_that_are_not_here_have_an_address(backbone, host, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    weights = dry_run.imagenet_weights(backbone)
    assert weights.file is None
    assert weights.url.split("/")[2] == host


def test_imagenet_weights_that_a_package_carries_are_here():
    assert dry_run.imagenet_weights("efficientnet_lite0").file.is_file()


def test_images_of_a_folder_are_those_that_lie_there(tmp_path):
    categories = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 0}]
    images = [{"id": n, "height": 30, "width": 50 + n} for n in range(3)]
    folder = {"root": str(tmp_path)}
    for split in ("train", "val"):
        folder[split] = {"annotations": f"{split}.json", "panoptic_dir": f"p_{split}", "images_dir": f"i_{split}"}
        (tmp_path / f"p_{split}").mkdir()
        (tmp_path / f"i_{split}").mkdir()
        (tmp_path / f"{split}.json").write_text(json.dumps({"images": images, "categories": categories}))
    for number in range(7):
        (tmp_path / "p_train" / f"{number}.png").touch()
    found = find_images(load_params(PAPER, changes={"prepare.coco_panoptic": folder}).prepare)
    assert (found.train, found.val, found.hw, len(found.categories)) == (7, 3, (30, 51), 2)
