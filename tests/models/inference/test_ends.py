"""From a data set to trained networks to a cache that the readers accept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from antvisionps.core.errors import CacheError, ModelError
from antvisionps.models.inference.end_networks import BUILDERS, fill_cache, open_networks
from antvisionps.models.inference.views import paste_mask
from antvisionps.models.training.member import train_member
from antvisionps.panoptic.categories import CategorySet
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticReader
from antvisionps.predictions.split_caches import SplitCaches

PREDICT = {
    "short_sides_px": (64,),
    "max_long_side_px": 128,
    "flip": False,
    "min_score": 0.0,
    "nms_iou": 0.5,
    "max_instances": 10,
}
TRAINING = {
    "seed": 1,
    "schedule": {"iterations": 2, "batch_size": 2, "warmup_iterations": 0, "policy": "cosine", "milestones": ()},
    "optimizer": {
        "kind": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "backbone_lr_factor": 1.0,
        "bias_lr_factor": 1.0,
        "max_grad_norm": None,
        "autocast": None,
        "accumulated_batches": 1,
    },
    "memory": {"checkpointed_stages": [], "channels_last": False},
    "augmentation": {"short_sides_px": (64,), "max_long_side_px": 96, "flip": True, "photometric": 0.0},
    "curve_interval": 1,
    "checkpoint_interval": 1,
    "loader_workers": 0,
    "dataset_fingerprint": "0" * 64,
}


@pytest.fixture
def train_end(dataset, network_settings, tmp_path):
    def train(end: str, member: str = "base"):
        folder = tmp_path / "models" / end / member
        train_member(
            dataset,
            build=BUILDERS[end],
            end=end,
            network=network_settings[end],
            work_dir=tmp_path / "unfinished",
            out_dir=folder,
            **TRAINING,
        )
        return folder

    return train


def header(dataset, end):
    return CacheHeader(
        end=end, split="val", dataset_fingerprint="0" * 64, categories=dataset.categories, weights_sha256="1" * 64
    )


@pytest.mark.parametrize("end", ["e_ups", "lwl_htc"])
def test_a_trained_end_fills_a_cache_that_holds_every_image(end, train_end, dataset, tmp_path):
    folder = train_end(end)
    assert sorted(path.name for path in folder.iterdir()) == ["curves", "network.json", "weights.pth"]
    assert not list((tmp_path / "unfinished").iterdir())
    networks = open_networks([folder], categories=dataset.categories, max_proposals=20, device=torch.device("cpu"))
    out = tmp_path / "cache"
    fill_cache(dataset, networks, [1.0], header=header(dataset, end), out_dir=out, **PREDICT)
    images = {image.image_id: (image.height, image.width) for image in dataset.images}
    with InstancesReader(out / INSTANCES_FILE, expect=header(dataset, end), images=images) as reader:
        instances = list(reader)
    with SemanticReader(out / SEMANTIC_FILE, expect=header(dataset, end), images=images) as reader:
        semantics = list(reader)
    assert [i.image_id for i in instances] == [s.image_id for s in semantics] == [1, 2, 3]
    assert sum(len(i) for i in instances) > 0
    things = {category.category_id for category in dataset.categories.things}
    assert all(set(i.category_ids.tolist()) <= things for i in instances)
    assert all((i.scores[:-1] >= i.scores[1:]).all() for i in instances)
    # 8-bit rounding of up to four planes that summed to 255
    assert all(abs(s.planes.sum(axis=0, dtype=int) - 255).max() <= 2 for s in semantics)


def test_an_end_of_semantics_alone_fills_its_half_of_the_cache(train_end, dataset, tmp_path):
    folders = [train_end("hrnet_aspp", "first"), train_end("hrnet_aspp", "second")]
    networks = open_networks(folders, categories=dataset.categories, max_proposals=20, device=torch.device("cpu"))
    out = tmp_path / "predictions" / "hrnet_aspp" / "val"
    end = header(dataset, "hrnet_aspp")
    fill_cache(dataset, networks, [1.0, 3.0], header=end, out_dir=out, **PREDICT | {"flip": True})
    assert [path.name for path in out.iterdir()] == [SEMANTIC_FILE]
    caches = SplitCaches(tmp_path / "predictions", "val", "0" * 64, dataset)
    semantics = list(caches.open_semantics(["hrnet_aspp"])["hrnet_aspp"])
    assert [s.image_id for s in semantics] == [1, 2, 3]
    assert all((s.stride, s.input_height, s.input_width) == (4, 64, 80) for s in semantics)
    assert all(abs(s.planes.sum(axis=0, dtype=int) - 255).max() <= 2 for s in semantics)
    with pytest.raises(CacheError, match=r"none of the ends \['hrnet_aspp'\] has an instances\.parquet"):
        caches.open_instances(["hrnet_aspp"])


def test_weights_of_another_width_are_refused(train_end, dataset):
    folder = train_end("hrnet_aspp")
    described = json.loads((folder / "network.json").read_text())
    described["network"]["backbone"]["width"] = 30
    (folder / "network.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"weights\.pth: weights of another architecture"):
        open_networks([folder], categories=dataset.categories, max_proposals=20, device=torch.device("cpu"))


def test_training_twice_gives_the_same_bytes(train_end):
    first = train_end("e_ups", "first")
    second = train_end("e_ups", "second")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) > 5
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]


def test_other_categories_than_those_trained_on_are_refused(train_end, dataset):
    folder = train_end("e_ups")
    rows = dataset.categories.to_json()
    renamed = CategorySet.from_json([rows[0] | {"name": "lawn"}, *rows[1:]], where="test")
    with pytest.raises(ModelError, match="trained on other categories"):
        open_networks([folder], categories=renamed, max_proposals=20, device=torch.device("cpu"))


def test_a_data_set_without_stuff_or_things_cannot_train_an_end(dataset, network_settings, tmp_path):
    from dataclasses import replace

    for is_thing, word in ((1, "stuff"), (0, "thing")):
        rows = [row | {"isthing": is_thing} for row in dataset.categories.to_json()]
        one_sided = replace(dataset, categories=CategorySet.from_json(rows, where="test"))
        with pytest.raises(ModelError, match=f"no {word} category"):
            train_member(
                one_sided,
                build=BUILDERS["e_ups"],
                end="e_ups",
                network=network_settings["e_ups"],
                work_dir=tmp_path / "unfinished",
                out_dir=tmp_path / "out",
                **TRAINING,
            )


@pytest.mark.parametrize("seed", range(40))
def test_masks_are_pasted_as_mmdet_does(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-15, 60, 2)
    box = np.concatenate([corner, corner + rng.uniform(0.5, 60, 2)]).astype(np.float32)
    probs = rng.random((28, 28)).astype(np.float32)
    soft, _ = _do_paste_mask(torch.from_numpy(probs)[None, None], torch.from_numpy(box)[None], 50, 70, skip_empty=False)
    got = paste_mask(probs, box, (50, 70))
    # A probability within rounding of the threshold may fall on either side.
    clear = (soft[0] - 0.5).abs().numpy() > 1e-5
    assert got.shape == (50, 70)
    assert np.array_equal(got[clear], soft[0].numpy()[clear] >= 0.5)


@pytest.mark.parametrize("box", [(-30, -30, -10, -10), (200, 5, 240, 9), (10, 10, 10, 30), (30, 30, 20, 20)])
def test_a_box_outside_the_image_or_without_area_has_no_mask(box):
    assert not paste_mask(np.ones((28, 28), np.float32), np.array(box, np.float32), (50, 70)).any()
