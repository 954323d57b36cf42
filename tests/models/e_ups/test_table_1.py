"""Every cell of the report's Table 1 at paper size, from params alone: it builds, and the largest ones take a step."""

from pathlib import Path

import pytest
import torch

from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.training.optimization import save_memory
from antvisionps.params.whole import load_params
from tests.models.conftest import take_steps

PAPER = load_params(Path(__file__).parents[3] / "profiles" / "coco_paper.yaml").train_e_ups
TABLE_1 = {
    "r101_dcn": ("resnet101", True, None, False),
    "r101_dcn_bfp": ("resnet101", True, 2, False),
    "r101_dcn_lsh": ("resnet101", True, None, True),
    "r101_dcn_bfp_lsh": ("resnet101", True, 2, True),
    "se154": ("senet154", False, None, False),
    "se154_bfp": ("senet154", False, 2, False),  # the report's did not fit
    "se154_lsh": ("senet154", False, None, True),
    "se154_bfp_lsh": ("senet154", False, 2, True),
}
BACKBONE_PARAMETERS = {"resnet50": 23.5e6, "resnet101": 42.5e6, "senet154": 113.0e6}


def build(variant: str):
    settings = PAPER.network(variant)
    settings["backbone"]["weights"] = None
    return build_e_ups(num_things=80, num_classes=133, test_proposals=10, **settings)


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_profile_describes_table_1_and_the_ensemble():
    found = {
        name: (n.backbone.name, n.backbone.deformable, n.balanced_pyramid_level, n.location_sensitive_header)
        for name, n in PAPER.networks.items()
    }
    upsnet = ("resnet50", False, None, False)
    assert found == TABLE_1 | {"base": upsnet, "r50": upsnet}
    assert PAPER.members == ("r50", "r101_dcn", "r101_dcn_bfp_lsh", "se154_lsh")


@pytest.mark.parametrize("variant", PAPER.networks)
def test_every_variant_builds_at_paper_size(variant):
    with torch.device("meta"):
        network = build(variant)
    settings = PAPER.networks[variant]
    offsets = sum(p.numel() for name, p in network.backbone.named_parameters() if "conv_offset" in name)
    backbone = sum(p.numel() for p in network.backbone.parameters()) - offsets
    assert backbone == pytest.approx(BACKBONE_PARAMETERS[settings.backbone.name], rel=5e-3)
    assert (offsets > 0) == settings.backbone.deformable
    assert network.semantic_head.classifier.weight.shape == (133, 512, 1, 1)
    assert network.roi_head.bbox_head.fc_cls.weight.shape == (81, 1024)


def test_upsnets_semantic_head_is_one_subnet_for_all_levels():
    with torch.device("meta"):
        head = build("r101_dcn").semantic_head
    convolutions = 9 * (256 * 256 + 256 * 128 + 128 * 128)
    offsets = sum(9 * width * 18 + 18 for width in (256, 256, 128))
    assert parameters_of(head) == convolutions + offsets + 4 * 128 * 133 + 133


def test_the_mask_heads_convolutions_move_to_the_location_sensitive_tower():
    with torch.device("meta"):
        plain, header = (build(variant).roi_head for variant in ("r101_dcn", "r101_dcn_lsh"))
    convolutions = 4 * (9 * 256 * 256 + 256)
    assert parameters_of(header.tower) == convolutions
    assert parameters_of(plain.mask_head) - parameters_of(header.mask_head) == convolutions
    # Deltas come from 1024 hidden features of the tower's 256 x 7 x 7.
    assert parameters_of(header.bbox_head) - parameters_of(plain.bbox_head) == 256 * 49 * 1024 + 1024


@pytest.mark.parametrize("variant", ["r101_dcn_bfp_lsh", "se154_bfp_lsh"])
def test_the_largest_network_of_each_backbone_takes_a_training_step(variant, dataset):
    torch.manual_seed(0)
    network = build(variant)
    save_memory(network, checkpointed_stages=PAPER.memory.checkpointed_stages, channels_last=False)
    # What a step costs on a CPU: RoIs through the heads. Their number changes no shape of the network.
    network.roi_head.bbox_sampler.num = 4
    settings = PAPER.optimizer.model_dump() | {"learning_rate": 1e-6, "autocast": None, "accumulated_batches": 1}
    learning = {"semantic_head.classifier.weight", "roi_head.bbox_head.fc_cls.weight", "rpn_head.rpn_cls.weight"}
    before = {name: p.detach().clone() for name, p in network.named_parameters() if name in learning}
    (logged,) = take_steps(network, dataset, 1, **settings)
    assert all(torch.isfinite(value).all() for value in logged.values())
    assert {"loss_semantic", "loss_semantic_roi", "loss_panoptic", "loss_mask"} <= logged.keys()
    after = dict(network.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
