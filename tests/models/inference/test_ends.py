"""From a data set to trained networks to a cache that the readers accept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from antvisionps.core.errors import CacheError, ModelError
from antvisionps.models.inference.end_networks import BUILDERS, open_networks
from antvisionps.models.inference.fill_caches import CacheToFill, fill_caches
from antvisionps.models.inference.predict_photo import paste_mask
from antvisionps.models.training import member
from antvisionps.models.training.member import train_member
from antvisionps.panoptic.categories import CategorySet
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticReader
from antvisionps.predictions.split_caches import SplitCaches
from tests.models.conftest import NETWORKS, PREDICTION, TRAINING


def train(dataset, out_dir: Path, end: str) -> None:
    train_member(
        dataset,
        build=BUILDERS[end],
        end=end,
        network=NETWORKS[end],
        settings=TRAINING,
        checkpoint_interval=1,
        loader_workers=0,
        dataset_fingerprint="0" * 64,
        work_dir=out_dir.parent / "unfinished",
        out_dir=out_dir,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """Folders of one trained network of each end, and of a second HRNet-ASPP. Tests only read them."""
    root = tmp_path_factory.mktemp("models")
    for end, names in (("e_ups", "a"), ("lwl_htc", "a"), ("hrnet_aspp", "ab")):
        for name in names:
            train(dataset, root / end / name, end)
    return root


def opened(models_dir, dataset, weights):
    how = {"categories": dataset.categories, "max_proposals": 20, "device": torch.device("cpu")}
    return open_networks(models_dir, weights, **how)


def fill(end, models_dir, dataset, out_dir, weights, **changes) -> CacheHeader:
    header = CacheHeader(end, "val", "0" * 64, dataset.categories, "1" * 64)
    cache = CacheToFill(opened(models_dir / end, dataset, weights), header, out_dir)
    fill_caches(dataset, [cache], replace(PREDICTION, min_score=0.0, **changes))
    return header


@pytest.mark.parametrize("end", ["e_ups", "lwl_htc"])
def test_a_trained_end_fills_a_cache_that_holds_every_image(end, trained, dataset, tmp_path):
    assert sorted(path.name for path in (trained / end / "a").iterdir()) == ["curves", "network.json", "weights.pth"]
    assert not list((trained / end / "unfinished").iterdir())
    header = fill(end, trained, dataset, tmp_path, {"a": 1.0})
    images = {image.image_id: (image.height, image.width) for image in dataset.images}
    with InstancesReader(tmp_path / INSTANCES_FILE, expect=header, images=images) as reader:
        instances = list(reader)
    with SemanticReader(tmp_path / SEMANTIC_FILE, expect=header, images=images) as reader:
        semantics = list(reader)
    assert [i.image_id for i in instances] == [s.image_id for s in semantics] == [1, 2, 3]
    assert sum(len(i) for i in instances) > 0
    things = {category.category_id for category in dataset.categories.things}
    assert all(set(i.category_ids.tolist()) <= things for i in instances)
    assert all((i.scores[:-1] >= i.scores[1:]).all() for i in instances)
    # 8-bit rounding of up to four planes that summed to 255
    assert all(abs(s.planes.sum(axis=0, dtype=int) - 255).max() <= 2 for s in semantics)


def test_an_end_of_semantics_alone_fills_its_half_of_the_cache(trained, dataset, tmp_path):
    out = tmp_path / "predictions" / "hrnet_aspp" / "val"
    fill("hrnet_aspp", trained, dataset, out, {"a": 1.0, "b": 3.0}, flip=True)
    assert [path.name for path in out.iterdir()] == [SEMANTIC_FILE]
    caches = SplitCaches(tmp_path / "predictions", "val", "0" * 64, dataset)
    semantics = list(caches.open_semantics(["hrnet_aspp"])["hrnet_aspp"])
    assert [s.image_id for s in semantics] == [1, 2, 3]
    assert all((s.stride, s.input_height, s.input_width) == (4, 64, 80) for s in semantics)
    assert all(abs(s.planes.sum(axis=0, dtype=int) - 255).max() <= 2 for s in semantics)
    with pytest.raises(CacheError, match=r"none of the ends \['hrnet_aspp'\] has an instances\.parquet"):
        caches.open_instances(["hrnet_aspp"])


def test_training_twice_gives_the_same_bytes(trained):
    first, second = (trained / "hrnet_aspp" / name for name in "ab")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) > 4
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]


def test_other_categories_than_those_trained_on_are_refused(trained, dataset):
    rows = dataset.categories.to_json()
    renamed = CategorySet.from_json([rows[0] | {"name": "lawn"}, *rows[1:]], where="test")
    with pytest.raises(ModelError, match="trained on other categories"):
        opened(trained / "e_ups", replace(dataset, categories=renamed), {"a": 1.0})


@pytest.mark.parametrize(("is_thing", "missing"), [(1, "stuff"), (0, "thing")])
def test_a_data_set_without_stuff_or_things_cannot_train_an_end(dataset, tmp_path, is_thing, missing):
    rows = [row | {"isthing": is_thing} for row in dataset.categories.to_json()]
    one_sided = replace(dataset, categories=CategorySet.from_json(rows, where="test"))
    with pytest.raises(ModelError, match=f"no {missing} category"):
        train(one_sided, tmp_path / "out", "e_ups")


def test_a_change_of_any_code_of_the_networks_starts_a_training_anew(tmp_path, monkeypatch):
    models = tmp_path / "models"
    for name in ("training", "blocks"):
        (models / name).mkdir(parents=True)
        (models / name / "module.py").write_text("x = 1")
    monkeypatch.setattr(member, "__file__", str(models / "training" / "member.py"))
    before = member._digest_of_run([])
    assert member._digest_of_run([]) == before
    (models / "blocks" / "module.py").write_text("x = 2")
    assert member._digest_of_run([]) != before


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
