"""`antvisionps check` on tiny params, on params that cannot run, and on a network of the report's."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from antvisionps.cli import main as cli
from antvisionps.core.errors import DataError
from antvisionps.datasets.scenes import CATEGORIES, write_scenes
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.params.profiles import read_params
from antvisionps.params.whole import load_params
from antvisionps.pipeline.prepare import prepare
from antvisionps.preflight import dry_run
from antvisionps.preflight.images import look_at_data
from antvisionps.preflight.networks import networks_of
from tests.datasets.test_cityscapes import write_image
from tests.tiny_run import TINY_NETWORK, write_tiny_params

PAPER = Path(__file__).parents[2] / "profiles" / "coco_paper.yaml"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs the command on changed params, on the CPU and offline, and returns its exit status and what it prints."""

    def offline(*_, **__):
        raise OSError("no network")

    def run(source, change=lambda params: None):
        params = read_params(source)
        change(params)
        YAML(typ="safe").dump(params, tmp_path / "params.yaml")
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
    for words in ("8 iterations x 1 batches", "6 + 3 + 4 + 2", "ok disk"):
        assert words in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "params.yaml"]


def test_snapshots_take_disk_as_the_trained_weights_do(check, tiny_params):
    def megabytes(snapshots):
        def one_network(params):
            params["ends"] = params["predict"]["separate_ends"] = params["fuse"]["systems"] = ["e_ups"]
            params["train_e_ups"]["snapshots"] = snapshots

        status, out = check(tiny_params, one_network)
        assert status == 0
        return float(re.search(r"trained weights, twice ([\d.]+) MB", out)[1])

    assert megabytes([2, 4]) == pytest.approx(3 * megabytes([]), rel=0.02)


def test_a_network_that_cannot_be_built_fails_the_check_and_the_others_are_tried(check, tiny_params):
    def break_it(params):
        params["ends"] = params["predict"]["separate_ends"] = ["e_ups", "lwl_htc"]
        params["train_e_ups"]["networks"]["base"]["backbone"]["name"] = "vgg"
        params["train_lwl_htc"]["networks"]["base"]["load_from"] = "nowhere.pth"
        params["ends"].append("hrnet_aspp")

    status, out = check(tiny_params, break_it)
    assert status == 1
    assert "wrong e_ups base fails: unknown backbone vgg" in out
    assert "wrong lwl_htc base fails: nowhere.pth: no such file; set load_from to null" in out
    assert "ok hrnet_aspp base" in out


def test_a_network_of_the_paper_takes_a_step_and_missing_data_and_weights_fail_the_check(check, monkeypatch):
    """ResNet-50 alone, with small heads; tests/models/e_ups/test_table_1.py steps the others at full width."""

    def one_member(params):
        params["train_e_ups"]["members"] = ["r50"]
        params["train_e_ups"]["networks"]["base"] |= TINY_NETWORK | {"semantic_channels": [8]}
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
        "112,787 + 5,000 + 5,000 + 500",
        "wrong data data/coco/train2017 (",
        "/data/coco/train2017): not there",
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


@pytest.fixture
def coco(tmp_path):
    """A small data set of a user's in COCO's layout, and what params say of it."""
    root = tmp_path / "mine"
    for split, first, count in (("train", 1, 5), ("val", 11, 2)):
        images = write_scenes(root, seed=0, image_ids=range(first, first + count), height=64, width=96)
        write_panoptic_json(root / f"{split}.json", categories=CATEGORIES, images=images)
    folder = {"root": str(root)}
    for split in ("train", "val"):
        folder[split] = {"annotations": f"{split}.json", "panoptic_dir": "panoptic", "images_dir": "images"}
    counts = {"prepare.heldout_images": 2, "prepare.monitor_images": 1}
    return root, {"prepare.coco_panoptic": folder, "prepare.instances": "panoptic"} | counts


def test_a_batch_that_the_processes_cannot_share_is_wrong_and_each_tries_its_share(check, tiny_params):
    def split(params):
        params["runtime"] |= {"launcher": "pytorch", "processes": 2}
        params["ends"] = params["predict"]["separate_ends"] = params["fuse"]["systems"] = ["e_ups"]
        params["train_e_ups"]["schedule"]["batch_size"] = 3

    status, out = check(tiny_params, split)
    assert status == 1
    assert "wrong train_e_ups.schedule.batch_size 3 images, which 2 processes cannot share equally" in out
    assert "1 x 64 x 80 px" in out


def semantics_alone(params):
    params["ends"] = params["predict"]["separate_ends"] = ["hrnet_aspp"]
    params["fuse"]["systems"] = ["fusion"]


def share(params, **frozen):
    params["predict"] |= {"separate_ends": [], "shared_backbone": [{"first": "e_ups", "second": "lwl_htc"}]}
    params["ends"] = ["e_ups", "lwl_htc"]
    for end in params["ends"]:
        params[f"train_{end}"]["networks"]["base"]["backbone"] |= frozen


def fuse_with(params, **changes):
    params["fuse"] |= {"min_scores": {"unicorn": 0.3}} | changes


LATE = {
    "without instances": (semantics_alone, "wrong ends none of ['hrnet_aspp'] has instances"),
    "trained backbones": (share, "wrong predict.shared_backbone e_ups and lwl_htc have no frozen backbone in common"),
    "frozen backbones": (lambda params: share(params, frozen_stages=4, frozen_norm=True), ""),
    "no slices": (lambda params: params["score"].update(slices="nowhere.csv"), "wrong score.slices nowhere.csv: "),
    "no category": (fuse_with, "wrong fuse fuse.min_scores names 'unicorn'; expected things"),
    "auto reads no thresholds": (lambda params: fuse_with(params, method="auto"), ""),
    "calibrated has its own": (lambda params: fuse_with(params, calibrated=True), ""),
}


@pytest.mark.parametrize(("change", "words"), LATE.values(), ids=LATE)
def test_what_stops_a_stage_after_the_trainings_is_found_before(check, tiny_params, monkeypatch, change, words):
    monkeypatch.setattr(dry_run, "_try_all", lambda *_: ({}, []))
    status, out = check(tiny_params, change)
    assert status == bool(words)
    assert words in out


def test_of_things_alone_no_network_can_learn_and_none_is_tried(check, coco):
    root, changes = coco
    for path in (root / "train.json", root / "val.json"):
        document = json.loads(path.read_text())
        for category in document["categories"]:
            category["isthing"] = 1
        path.write_text(json.dumps(document))

    def take(params):
        params["prepare"] |= {key.removeprefix("prepare."): value for key, value in changes.items()}

    status, out = check(PAPER, take)
    assert status == 1
    assert "wrong data no stuff category, and the ends predict both" in out
    assert "fails" not in out


def look(changes):
    return look_at_data(load_params(PAPER, changes=changes).prepare)


def test_images_of_a_folder_are_those_that_prepare_reads(coco):
    images, (finding,) = look(coco[1])
    assert (images.train, images.val, images.hw, images.categories) == (5, 2, (64, 96), CATEGORIES)
    assert finding.severity == "ok"
    assert "prepare takes its annotations and all 7 photos and maps" in finding.message


def test_of_many_images_a_part_is_opened_and_the_finding_says_so(coco, monkeypatch):
    monkeypatch.setattr("antvisionps.preflight.images.SAMPLE", 3)
    (coco[0] / "images" / f"{2:012d}.png").write_bytes(b"no picture")  # between the first, the middle and the last
    (finding,) = look(coco[1])[1]
    assert finding.severity == "ok"
    assert "5 of 7 photos and maps; not looked at: the others, and whether one of them" in finding.message
    (coco[0] / "images" / f"{3:012d}.png").write_bytes(b"no picture")
    assert "photo of image 3" in look(coco[1])[1][0].message


def drop_categories(document):
    document["categories"] = [{"id": 1.9, "name": "cat", "isthing": 1}]


def enlarge(document):
    document["annotations"][0]["segments_info"][0]["area"] += 1


def rename_photo(document):
    document["images"][0]["file_name"] = "other.png"


@pytest.mark.parametrize("spoil", [drop_categories, enlarge, rename_photo, lambda d: d["images"].clear()])
def test_what_prepare_refuses_is_wrong_here_in_the_same_words(coco, spoil, tmp_path):
    root, changes = coco
    document = json.loads((root / "train.json").read_text())
    spoil(document)
    (root / "train.json").write_text(json.dumps(document))
    (finding,) = look(changes)[1]
    with pytest.raises(DataError) as refused:
        prepare(load_params(PAPER, changes=changes).prepare, out=tmp_path / "prepared", workers=1)
    assert (finding.severity, finding.message) == ("wrong", str(refused.value))


def test_a_photo_that_prepare_would_find_in_both_splits_is_found(coco):
    images = coco[0] / "images"
    (images / f"{11:012d}.png").write_bytes((images / f"{4:012d}.png").read_bytes())
    assert "leak: " in look(coco[1])[1][0].message


def test_too_many_held_out_images_and_broken_instances_are_found(coco):
    assert (
        "heldout_images is 5 and the train annotations have 5"
        in look(coco[1] | {"prepare.heldout_images": 5})[1][0].message
    )
    (coco[0] / "i.json").write_text("{}")
    assert "expected rows under 'categories'" in look(coco[1] | {"prepare.instances": "i.json"})[1][0].message


def test_what_is_missing_is_named_with_its_whole_path(coco, monkeypatch):
    root, changes = coco
    monkeypatch.chdir(root.parent)
    (root / "val.json").unlink()
    changes["prepare.coco_panoptic"]["root"] = "mine"
    (finding,) = look(changes)[1]
    assert finding.message == f"mine/val.json ({root / 'val.json'}): not there; prepare reads it"


def test_cityscapes_are_read_as_prepare_reads_them(tmp_path):
    root = tmp_path / "cityscapes"
    for split, city in (("train", "ulm"), ("train", "aachen"), ("val", "bonn")):
        write_image(root, split, city, f"{city}_000000_000019", np.random.default_rng(len(city)))
    changes = {
        "prepare.source": "cityscapes",
        "prepare.cityscapes": {"root": str(root)},
        "prepare.instances": "panoptic",
    }
    changes |= {"prepare.heldout_images": 1, "prepare.monitor_images": 0}
    changes |= {f"train_{end}.evaluate_interval": None for end in ("e_ups", "lwl_htc")}
    images, (finding,) = look(changes)
    assert (images.train, images.val, finding.severity) == (2, 1, "ok")
    next((root / "gtFine" / "val" / "bonn").glob("*Ids.png")).write_bytes(b"")
    assert "expected a grey 16-bit PNG" in look(changes)[1][0].message


def test_little_shared_memory_fails_the_check_where_loader_processes_need_it(check, tiny_params, monkeypatch):
    def load_by_others(params):
        params["runtime"]["loader_workers"] = 2

    monkeypatch.setattr(dry_run, "_try_all", lambda *_: ({}, []))
    monkeypatch.setattr(dry_run, "SHARED_MEMORY", tiny_params.parent)
    usage = shutil.disk_usage(tiny_params.parent)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: usage._replace(free=1000) if path == tiny_params.parent else usage
    )
    status, out = check(tiny_params, load_by_others)
    assert status == 1
    assert "wrong shared memory" in out
    assert "--shm-size" in out
