"""Two ends on one frozen backbone: its features computed once, the caches of separate passes to the last byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import BUILDERS, fill_caches, open_end
from antvisionps.models.inference.shared_backbone import RememberingBackbone, share_backbone
from antvisionps.models.training.optimization import optim_wrapper
from antvisionps.models.training.samples import TrainingSamples, collate
from antvisionps.models.training.weights import save_weights

SETTINGS = {"max_long_side_px": 200, "min_score": 0.0, "nms_iou": 0.5, "max_instances": 10}
FROZEN = {"name": "efficientnet_lite0", "weights": None, "frozen_stages": 4, "frozen_norm": True, "deformable": False}
OPTIMIZER = {
    "kind": "adamw",
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "momentum": 0.0,
    "backbone_lr_factor": 1.0,
    "bias_lr_factor": 1.0,
    "max_grad_norm": None,
}


@pytest.fixture
def write(dataset, network_settings, tmp_path):
    """Writes a network of an end with the backbone's random weights of `backbone_seed`, and heads of its own."""

    def write_network(end: str, member: str = "base", *, backbone_seed: int = 0, **backbone) -> Path:
        settings = network_settings[end] | {"backbone": FROZEN | backbone}
        classes = {"num_things": 2, "num_classes": 4}
        network = BUILDERS[end](**classes, test_proposals=20, **settings)
        torch.manual_seed(backbone_seed)
        for module in network.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()
        folder = tmp_path / "models" / end / member
        folder.mkdir(parents=True)
        described = {"end": end, "categories": dataset.categories.to_json(), "network": settings} | classes
        save_weights(folder, network, network=described)
        return folder

    return write_network


@pytest.fixture
def open_ends(dataset, tmp_path):
    def open_both(out: str, **members):
        return [
            open_end(
                dataset,
                end=end,
                split="val",
                dataset_fingerprint="0" * 64,
                member_weights=members.get(end, {"base": 1.0}),
                max_proposals=20,
                device=torch.device("cpu"),
                models_dir=tmp_path / "models" / end,
                out_dir=tmp_path / out / end,
            )
            for end in ("e_ups", "lwl_htc")
        ]

    return open_both


def share(ends, *, num_views: int = 1) -> None:
    share_backbone([end.networks for end in ends], [end.folders for end in ends], num_views=num_views)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize(("short_sides_px", "flip"), [((64,), False), ((64, 96), True)])
def test_the_caches_are_those_of_separate_passes_and_the_backbone_runs_once_a_view(
    write, open_ends, dataset, tmp_path, short_sides_px, flip
):
    write("e_ups")
    write("lwl_htc")
    settings = SETTINGS | {"short_sides_px": short_sides_px, "flip": flip}
    for end in open_ends("separate"):
        fill_caches(dataset, [end], **settings)
    shared = open_ends("shared")
    num_views = len(short_sides_px) * (1 + flip)
    share(shared, num_views=num_views)
    passes = []
    (first,), (second,) = (end.networks for end in shared)
    assert first.backbone is second.backbone
    first.backbone.backbone.register_forward_hook(lambda *_: passes.append(1))
    fill_caches(dataset, shared, **settings)
    assert len(passes) == len(dataset.images) * num_views
    separate = files(tmp_path / "separate")
    assert len(separate) == 4
    assert files(tmp_path / "shared") == separate


def test_members_of_an_ensemble_with_that_backbone_share_it_and_the_others_keep_theirs(
    write, open_ends, dataset, tmp_path
):
    write("e_ups", "small")
    write("e_ups", "other", name="resnet18", backbone_seed=5)
    write("e_ups", "again")
    write("lwl_htc")
    weights = {"other": 1.2, "small": 0.4, "again": 0.3}
    settings = SETTINGS | {"short_sides_px": (64,), "flip": False}
    for end in open_ends("separate", e_ups=weights):
        fill_caches(dataset, [end], **settings)
    shared = open_ends("shared", e_ups=weights)
    share(shared)
    other, small, again = (network.backbone for network in shared[0].networks)
    assert small is again is shared[1].networks[0].backbone
    assert not isinstance(other, RememberingBackbone)
    fill_caches(dataset, shared, **settings)
    assert files(tmp_path / "shared") == files(tmp_path / "separate")


def test_an_input_that_differs_in_one_pixel_is_computed_anew():
    backbone = RememberingBackbone(torch.nn.Identity(), num_views=2)
    one = torch.zeros(1, 3, 8, 8)
    other = one.clone()
    other[0, 0, 7, 7] = 1e-6
    assert backbone(one) is one
    assert backbone(other) is other
    assert backbone(one.clone()) is one
    assert backbone(torch.zeros(1, 3, 8, 16)).shape[-1] == 16  # forgets the first of two views
    assert backbone(repeated := one.clone()) is repeated


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "resnet18"}, r"its name is resnet18, the other's efficientnet_lite0"),
        ({"frozen_norm": False}, r"its frozen_norm is False, the other's True"),
        ({"backbone_seed": 1}, r"backbone\.network\.conv_stem\.weight differs"),
    ],
)
def test_other_backbones_are_refused_with_what_differs(write, open_ends, changes, complaint):
    write("e_ups")
    write("lwl_htc", **changes)
    with pytest.raises(ModelError, match=rf"models/lwl_htc/base: .*models/e_ups/base: {complaint}; .*separate_ends"):
        share(open_ends("shared"))


def test_a_backbone_that_was_trained_is_refused_even_where_both_are_equal(write, open_ends):
    write("e_ups", frozen_stages=2)
    write("lwl_htc", frozen_stages=2)
    with pytest.raises(ModelError, match=r"frozen_stages is 2 in both, .*frozen_stages: 4"):
        share(open_ends("shared"))


def test_a_statistic_of_a_norm_that_differs_is_named(write, open_ends):
    write("e_ups")
    write("lwl_htc")
    ends = open_ends("shared")
    ends[1].networks[0].backbone.network.bn1.running_mean[3] += 1
    with pytest.raises(ModelError, match=r"backbone\.network\.bn1\.running_mean differs"):
        share(ends)


def test_photos_that_are_normalised_otherwise_are_refused(write, open_ends):
    write("e_ups")
    write("lwl_htc")
    ends = open_ends("shared")
    ends[1].networks[0].data_preprocessor.mean += 1
    with pytest.raises(ModelError, match=r"mean of photos differs"):
        share(ends)


@pytest.mark.parametrize("end", ["e_ups", "lwl_htc"])
def test_training_leaves_a_wholly_frozen_backbone_as_it_was(end, dataset, network_settings):
    torch.manual_seed(0)
    settings = network_settings[end] | {"backbone": FROZEN}
    network = BUILDERS[end](num_things=2, num_classes=4, test_proposals=20, **settings)
    network.init_weights()
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    wrapper = build_optim_wrapper(network, optim_wrapper(**OPTIMIZER, autocast=None, accumulated_batches=1))
    network.train()
    for step in range(2):
        network.train_step(collate([samples[step, 0]]), wrapper)
    after = network.backbone.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
