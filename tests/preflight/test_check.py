"""`antvisionps check` on tiny params, on params that cannot run, and on a network of the report's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from antvisionps.cli.main import main as cli
from antvisionps.params.profiles import compose
from antvisionps.params.whole import load_params
from antvisionps.preflight import dry_run
from antvisionps.preflight.images import find_images
from antvisionps.preflight.networks import PretrainedWeights, imagenet_weights, networks_of
from tests.tiny_run import write_tiny_params

PROJECT = Path(__file__).parents[2]
PAPER = PROJECT / "profiles" / "coco_paper.yaml"


@pytest.fixture(autouse=True)
def _on_the_cpu_and_offline(monkeypatch):
    import torch

    monkeypatch.setattr(dry_run, "select_device", lambda _choice, cpu_threads: torch.device("cpu"))
    monkeypatch.setattr(dry_run, "_unreachable", lambda _url: "no network")


def edited(path: Path, source: Path, edit) -> Path:
    yaml = YAML()
    params = yaml.load(compose(source))
    edit(params)
    yaml.dump(params, path)
    return path


def lines_of(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_tiny_params_of_three_ends_pass_with_times_and_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_params(tmp_path / "params.yaml")
    cli(["check"])
    out = lines_of(capsys.readouterr().out)
    for end in ("e_ups", "lwl_htc", "hrnet_aspp"):
        assert f"{end} base builds, learns and predicts on cpu" in out
        assert f"{end} base: training" in out
    assert "8 iterations x 1 batches" in out
    assert "6 + 3 + 4" in out
    assert "ok disk" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_a_network_that_cannot_be_built_fails_the_check_and_the_others_are_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_params(tmp_path / "tiny.yaml")

    def break_it(params):
        params["ends"] = params["predict"]["separate_ends"] = ["e_ups", "lwl_htc"]
        params["train_e_ups"]["networks"]["base"]["backbone"]["name"] = "vgg"

    edited(tmp_path / "params.yaml", tmp_path / "tiny.yaml", break_it)
    with pytest.raises(SystemExit) as stopped:
        cli(["check"])
    assert stopped.value.code == 1
    out = lines_of(capsys.readouterr().out)
    assert "wrong e_ups base fails: unknown backbone vgg" in out
    assert "ok lwl_htc base" in out


def test_params_that_are_invalid_are_one_error(tmp_path, monkeypatch, capsys):
    edited(tmp_path / "params.yaml", PROJECT / "params.yaml", lambda params: params["fuse"].update(min_score=2.0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli(["check"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: params.yaml: fuse.min_score: ")


def test_a_network_of_the_paper_takes_a_step_and_missing_data_and_weights_fail_the_check(tmp_path, monkeypatch, capsys):
    """ResNet-50 alone; the others differ in size, and tests/models/e_ups/test_table_1.py steps them."""

    def one_member(params):
        params["train_e_ups"]["members"] = ["r50"]
        params["predict"]["member_weights"]["e_ups"] = {"r50": 1.0}
        params["ends"] = params["predict"]["separate_ends"] = params["fuse"]["systems"] = ["e_ups"]

    edited(tmp_path / "r50.yaml", PAPER, one_member)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "imagenet_weights", lambda name: PretrainedWeights(None, f"https://x/{name}"))
    with pytest.raises(SystemExit) as stopped:
        cli(["check", "r50.yaml"])
    assert stopped.value.code == 1
    out = lines_of(capsys.readouterr().out)
    assert "ok e_ups r50 builds, learns and predicts on cpu" in out
    assert "e_ups r50: memory of a step" in out
    assert "4 x 832 x 1109 px" in out
    assert "e_ups r50: time unknown needs a GPU" in out
    assert "113,287 + 5,000 + 5,000" in out
    assert "wrong data data/coco/train2017: not there" in out
    assert "https://x/resnet50 cannot be reached: no network" in out
    assert "antvisionps download coco --to data/coco" in out
    assert "note optimizer.autocast" in out


def test_every_network_that_the_paper_trains_is_listed_with_its_weights():
    listed = list(networks_of(load_params(PAPER)))
    assert [network.name for network in listed] == [
        "e_ups r50",
        "e_ups r101_dcn",
        "e_ups r101_dcn_bfp_lsh",
        "e_ups se154_lsh",
        "lwl_htc base",
    ]
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
    weights = imagenet_weights(backbone)
    assert weights.file is None
    assert weights.url.split("/")[2] == host


def test_imagenet_weights_that_a_package_carries_are_here():
    weights = imagenet_weights("efficientnet_lite0")
    assert weights.file is not None
    assert weights.file.is_file()


def test_images_of_a_folder_are_those_that_lie_there(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"p_{split}").mkdir()
        (tmp_path / f"i_{split}").mkdir()
        images = [{"id": n, "height": 30, "width": 50 + n} for n in range(3)]
        categories = [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 0}]
        (tmp_path / f"{split}.json").write_text(json.dumps({"images": images, "categories": categories}))
    for number in range(7):
        (tmp_path / "p_train" / f"{number}.png").touch()

    def point_at_it(params):
        folder = {
            s: {"annotations": f"{s}.json", "panoptic_dir": f"p_{s}", "images_dir": f"i_{s}"} for s in ("train", "val")
        }
        params["prepare"]["coco_panoptic"] = {"root": str(tmp_path), **folder}

    found = find_images(load_params(edited(tmp_path / "params.yaml", PAPER, point_at_it)).prepare)
    assert (found.train, found.val, found.hw, len(found.categories)) == (7, 3, (30, 51), 2)


def test_the_command_is_listed_without_importing_torch():
    script = (
        "import sys; from antvisionps.cli.main import main\n"
        "try:\n    main(['check', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT)
    assert ran.returncode == 0, ran.stderr
    assert "A dry run before a long one" in ran.stdout
