"""Which networks share a frozen backbone, and what is said of those that cannot."""

from pathlib import Path

import pytest
import torch

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import BUILDERS, EndNetworks, open_networks
from antvisionps.models.inference.shared_backbone import RememberingBackbone, share_backbone
from antvisionps.models.training.weights import save_weights
from antvisionps.params.training import network_problem
from tests.models.conftest import NETWORK, NETWORKS, TRAINING, build, take_steps

FROZEN = NETWORK["backbone"] | {"frozen_stages": 4}


@pytest.fixture
def write(dataset, tmp_path):
    """Writes a network of an end with the backbone's random weights of `backbone_seed`, and heads of its own."""

    def write_network(end: str, member: str = "base", *, backbone_seed: int = 0, **backbone) -> Path:
        settings = NETWORKS[end] | {"backbone": FROZEN | backbone}
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
    def open_both(**members) -> list[EndNetworks]:
        return [
            open_networks(
                tmp_path / "models" / end,
                members.get(end, {"base": 1.0}),
                end=end,
                find_problem=network_problem,
                categories=dataset.categories,
                max_proposals=20,
                device=torch.device("cpu"),
                snapshots=False,
                soup=False,
            )
            for end in ("e_ups", "lwl_htc")
        ]

    return open_both


def test_members_of_an_ensemble_with_that_backbone_share_it_and_the_others_keep_theirs(write, open_ends):
    write("e_ups", "small")
    write("e_ups", "other", name="resnet18", backbone_seed=5)
    write("e_ups", "again")
    write("lwl_htc")
    e_ups, lwl_htc = open_ends(e_ups={"other": 1.2, "small": 0.4, "again": 0.3})
    share_backbone([e_ups, lwl_htc], num_views=1)
    other, small, again = (network.backbone for network in e_ups.networks)
    assert small is again is lwl_htc.networks[0].backbone
    assert not isinstance(other, RememberingBackbone)


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
    ("one", "other", "complaint"),
    [
        ({}, {"name": "resnet18"}, r"its name is resnet18, the other's efficientnet_lite0"),
        ({}, {"frozen_norm": False}, r"its frozen_norm is False, the other's True"),
        ({}, {"backbone_seed": 1}, r"backbone\.network\.conv_stem\.weight differs"),
        ({"frozen_stages": 2}, {"frozen_stages": 2}, r"frozen_stages is 2 in both, .* of its own"),
    ],
)
def test_backbones_that_differ_or_were_trained_are_refused_with_what_differs(write, open_ends, one, other, complaint):
    write("e_ups", **one)
    write("lwl_htc", **other)
    with pytest.raises(ModelError, match=rf"models/lwl_htc/base: .*models/e_ups/base: {complaint}; .*separate_ends"):
        share_backbone(open_ends(), num_views=1)


def test_statistics_that_differ_are_named(write, open_ends):
    write("e_ups")
    write("lwl_htc")
    ends = open_ends()
    ends[1].networks[0].backbone.network.bn1.running_mean += 1
    with pytest.raises(ModelError, match=r"backbone\.network\.bn1\.running_mean differs"):
        share_backbone(ends, num_views=1)


@pytest.mark.parametrize("end", ["e_ups", "lwl_htc"])
def test_training_leaves_a_wholly_frozen_backbone_as_it_was(end, dataset):
    network = build(end, backbone=FROZEN).train()
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    take_steps(network, dataset, 2, **TRAINING.optimizer | {"learning_rate": 1e-2})
    after = network.backbone.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
