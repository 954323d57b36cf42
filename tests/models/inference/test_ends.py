"""From a data set to trained networks to a cache that the readers accept."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from antvisionps.core import locks
from antvisionps.core.atomic import sole_writer
from antvisionps.core.errors import ModelError, OutputError
from antvisionps.core.os_errors import explain
from antvisionps.models.inference.end_networks import BUILDERS, EndNetworks, open_networks
from antvisionps.models.inference.fill_caches import fill_caches
from antvisionps.models.inference.masks import paste_mask
from antvisionps.models.training import member, run_digest
from antvisionps.models.training.member import train_member
from antvisionps.models.training.weights import weights_sha256
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.training import network_problem
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticReader
from tests.models.conftest import NETWORKS, PREDICTION, TRAINING, build


def train(dataset, out_dir: Path, end: str, *, evaluate=None, **changes) -> None:
    train_member(
        dataset,
        build=BUILDERS[end],
        end=end,
        network=NETWORKS[end],
        load_from=None,
        settings=replace(TRAINING, **changes),
        checkpoint_interval=1,
        loader_workers=0,
        dataset_fingerprint="0" * 64,
        work_dir=out_dir.parent / "unfinished",
        out_dir=out_dir,
        evaluate=evaluate,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """Folders of one trained network of each end. Tests only read them."""
    root = tmp_path_factory.mktemp("models")
    for end in NETWORKS:
        train(dataset, root / end / "a", end)
    return root


def opened(models_dir, dataset, members=("a",), *, snapshots=False, soup=False):
    how = {
        "end": models_dir.name,
        "find_problem": network_problem,
        "categories": dataset.categories,
        "max_proposals": 20,
        "device": torch.device("cpu"),
        "snapshots": snapshots,
        "soup": soup,
    }
    return open_networks(models_dir, dict.fromkeys(members, 1.0), **how)


@pytest.mark.parametrize("end", NETWORKS)
def test_a_trained_end_fills_a_cache_that_holds_every_image(end, trained, dataset, tmp_path):
    assert sorted(path.name for path in (trained / end / "a").iterdir()) == ["curves", "network.json", "weights.pth"]
    assert not (trained / end / "unfinished").exists()
    networks = opened(trained / end, dataset)
    places = {"predictions_dir": tmp_path, "work_dir": tmp_path / "unfinished"}
    settings = replace(PREDICTION, min_score=0.0)
    fill_caches({end: networks}, {"val": dataset}, settings, dataset_fingerprint="0" * 64, **places)
    cache = tmp_path / end / "val"
    header = CacheHeader(end, "val", "0" * 64, dataset.categories, weights_sha256([trained / end / "a"]))
    images = {image.image_id: (image.height, image.width) for image in dataset.images}
    with SemanticReader(cache / SEMANTIC_FILE, expect=header, images=images) as reader:
        semantics = list(reader)
    assert [s.image_id for s in semantics] == [1, 2, 3]
    # 8-bit rounding of up to four planes that summed to 255
    assert all(abs(s.planes.sum(axis=0, dtype=int) - 255).max() <= 2 for s in semantics)
    if end == "hrnet_aspp":
        assert [path.name for path in cache.iterdir()] == [SEMANTIC_FILE]
        return
    with InstancesReader(cache / INSTANCES_FILE, expect=header, images=images) as reader:
        instances = list(reader)
    assert [i.image_id for i in instances] == [1, 2, 3]
    assert sum(len(i) for i in instances) > 0
    assert all(set(i.category_ids.tolist()) <= {5, 9} for i in instances)
    assert all((i.scores[:-1] >= i.scores[1:]).all() for i in instances)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_predict_opens_the_weights_that_were_kept(dataset, tmp_path, keep):
    averages = []

    def remember(model):
        averages.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"PQ": -len(averages)}

    kept = {"ema_momentum": 0.5, "evaluate_interval": 1, "keep": keep}
    train(dataset, tmp_path / "hrnet_aspp" / "a", "hrnet_aspp", evaluate=remember, **kept)
    weights = opened(tmp_path / "hrnet_aspp", dataset).networks[0].state_dict()
    expected = averages[0 if keep == "best" else -1]
    assert len(averages) == 2
    assert any(not torch.equal(averages[0][name], averages[1][name]) for name in weights)
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.fixture(scope="module")
def with_snapshots(tmp_path_factory, dataset):
    """Folder of an end's networks: `a` and `b` of the same settings, each with the weights after iterations 1 and 2,
    and `c` of others."""
    root = tmp_path_factory.mktemp("models") / "e_ups"
    for name, changes in {"a": {}, "b": {"seed": 6}}.items():
        train(dataset, root / name, "e_ups", snapshots=(1,), **changes)
    shutil.copytree(root / "a", root / "c")
    for path in (root / "c").rglob("network.json"):
        described = json.loads(path.read_text())
        described["network"]["unknown_frac"] = 0.5
        path.write_text(json.dumps(described))
    return root


def test_snapshots_are_networks_that_share_the_weight_of_their_own(with_snapshots, dataset):
    end = opened(with_snapshots, dataset, "ac", snapshots=True)
    assert end.folders == [(with_snapshots / name,) for name in ("a/snapshots/1", "a", "c/snapshots/1", "c")]
    assert end.weights == [0.5] * 4
    early, last = (network.state_dict() for network in end.networks[:2])
    assert any(not torch.equal(early[name], last[name]) for name in last)
    assert opened(with_snapshots, dataset, "ac").folders == [(with_snapshots / "a",), (with_snapshots / "c",)]


def test_a_soup_is_the_mean_of_the_weights_of_networks_of_the_same_settings(with_snapshots, dataset):
    single = opened(with_snapshots, dataset, "acb", snapshots=True)
    states = [network.state_dict() for network in single.networks]
    soup = opened(with_snapshots, dataset, "acb", snapshots=True, soup=True)
    assert soup.weights == [2.0, 1.0]  # of a and b, and of c
    assert list(soup.folders[0]) == [with_snapshots / name for name in ("a/snapshots/1", "a", "b/snapshots/1", "b")]
    mean = soup.networks[0].state_dict()
    alike = [states[0], states[1], states[4], states[5]]
    for name, tensor in mean.items():
        expected = sum(state[name].double() for state in alike) / 4 if tensor.is_floating_point() else alike[0][name]
        torch.testing.assert_close(tensor, expected.to(tensor.dtype))
    unchanged = [name for name in mean if all(torch.equal(states[0][name], state[name]) for state in alike)]
    assert any(name.startswith("backbone") for name in unchanged)  # frozen: the same in all to the bit
    assert all(torch.equal(mean[name], states[0][name]) for name in unchanged)
    assert any(not torch.equal(mean[name], states[1][name]) for name in mean)


def test_other_categories_than_those_trained_on_are_refused(trained, dataset):
    rows = dataset.categories.to_json()
    renamed = CategorySet.from_json([rows[0] | {"name": "lawn"}, *rows[1:]], where="test")
    with pytest.raises(ModelError, match="trained on other categories"):
        opened(trained / "e_ups", replace(dataset, categories=renamed))


@pytest.mark.parametrize(("is_thing", "missing"), [(1, "stuff"), (0, "thing")])
def test_a_data_set_without_stuff_or_things_cannot_train_an_end(dataset, tmp_path, is_thing, missing):
    rows = [row | {"isthing": is_thing} for row in dataset.categories.to_json()]
    one_sided = replace(dataset, categories=CategorySet.from_json(rows, where="test"))
    with pytest.raises(ModelError, match=f"no {missing} category"):
        train(one_sided, tmp_path / "out", "e_ups")


def no_training(*_, **__):
    raise AssertionError("it was trained")


def test_a_bad_place_or_another_training_there_is_told_before_the_training(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    monkeypatch.setattr(member, "train", no_training)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: expected a folder to write, got a file"):
        train(dataset, tmp_path / "file", "e_ups")
    with sole_writer(tmp_path / "e_ups" / "a"), pytest.raises(OutputError, match=r"a: process .* writes it"):
        train(dataset, tmp_path / "e_ups" / "a", "e_ups")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_with_the_folder_of_the_checkpoints(dataset, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError) as raised:
            train(dataset, tmp_path / "e_ups" / "a", "e_ups")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert explain(raised.value).startswith(f"{tmp_path}/e_ups/unfinished/")
    assert "File too large; raise the limit of file sizes" in explain(raised.value)
    assert not (tmp_path / "e_ups" / "a").exists()
    assert not list(tmp_path.rglob(".*.unfinished*"))


def test_a_change_of_any_code_of_the_networks_starts_a_training_anew(tmp_path, monkeypatch):
    models = tmp_path / "models"
    for name in ("training", "blocks"):
        (models / name).mkdir(parents=True)
        (models / name / "module.py").write_text("x = 1")
    monkeypatch.setattr(run_digest, "__file__", str(models / "training" / "run_digest.py"))
    before = run_digest.run_digest([])
    assert run_digest.run_digest([]) == before
    (models / "blocks" / "module.py").write_text("x = 2")
    assert run_digest.run_digest([]) != before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"end": "lwl_htc"}, "a network of lwl_htc, expected one of e_ups"),
        ({"network": {}}, r"network\.json: network\.backbone: Field required"),
        ({"network": NETWORKS["e_ups"] | {"fpn_channels": 10**9}}, r"network\.json: network\.fpn_channels: .*4096"),
        ({"network": NETWORKS["e_ups"] | {"mask_convs": "1"}}, r"network\.json: network\.mask_convs: .*integer"),
    ],
)
def test_a_network_of_settings_that_its_end_cannot_have_is_refused(trained, dataset, tmp_path, change, problem):
    folder = shutil.copytree(trained / "e_ups" / "a", tmp_path / "e_ups" / "a")
    described = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(described | change))
    with pytest.raises(ModelError, match=problem):
        opened(tmp_path / "e_ups", dataset)


def test_masks_are_pasted_as_mmdet_does():
    rng = np.random.default_rng(0)
    for _ in range(40):
        corner = rng.uniform(-15, 60, 2)
        box = np.concatenate([corner, corner + rng.uniform(0.5, 60, 2)]).astype(np.float32)
        probs = rng.random((28, 28)).astype(np.float32)
        masks, boxes = torch.from_numpy(probs)[None, None], torch.from_numpy(box)[None]
        soft = _do_paste_mask(masks, boxes, 50, 70, skip_empty=False)[0][0].numpy()
        got = paste_mask(probs, box, (50, 70))
        # A probability within rounding of the threshold may fall on either side.
        clear = np.abs(soft - 0.5) > 1e-5
        assert np.array_equal(got[clear], soft[clear] >= 0.5)


@pytest.mark.parametrize("box", [(-30, -30, -10, -10), (200, 5, 240, 9), (10, 10, 10, 30), (30, 30, 20, 20)])
def test_a_box_outside_the_image_or_without_area_has_no_mask(box):
    assert not paste_mask(np.ones((28, 28), np.float32), np.array(box, np.float32), (50, 70)).any()


@pytest.mark.parametrize(("end", "expected"), [("e_ups", True), ("lwl_htc", True), ("hrnet_aspp", False)])
def test_detectors_have_boxes_and_a_semantic_network_has_none(end, expected):
    assert EndNetworks([build(end)], [1.0], 30).has_instances == expected
