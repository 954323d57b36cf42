"""That training starts near chance: no loss of any variant is far from what equal logits cost."""

import math
from pathlib import Path

import pytest
import torch

from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.params.whole import load_params
from tests.models.conftest import batch_of, losses_of

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
PLAIN = {"e_ups": PARAMS.train_e_ups.network("base"), "lwl_htc": PARAMS.train_lwl_htc.network.model_dump(mode="json")}
FULL_WEIGHTS = {"roi_semantic_loss_weight": 1.0, "panoptic_loss_weight": 1.0, "unknown_frac": 0.0}
BFP, LSH = {"balanced_pyramid_level": 2}, {"location_sensitive_header": True}
DC, PER_LEVEL = {"deformable_semantic_head": "shared"}, {"deformable_semantic_head": "per_level"}
VARIANTS = {
    "e_ups": ("e_ups", {}),
    "e_ups bfp": ("e_ups", BFP),
    "e_ups lsh": ("e_ups", LSH),
    "e_ups bfp lsh": ("e_ups", BFP | LSH),
    "e_ups whole": ("e_ups", BFP | LSH | FULL_WEIGHTS | {"image_context": True}),
    "lwl_htc": ("lwl_htc", {}),
    "lwl_htc grid": ("lwl_htc", {"semantic_loss_on": "grid"}),
    "lwl_htc uncertainty": ("lwl_htc", {"uncertainty": "task"}),
    "lwl_htc dc": ("lwl_htc", DC),
    "lwl_htc dc uncertainty": ("lwl_htc", DC | {"uncertainty": "term"}),
    "lwl_htc dc per level lsh": ("lwl_htc", PER_LEVEL | LSH),
}
"""Of the report's tables 1 and 2, with their other parts."""

BACKBONES = {
    "efficientnet_lite0": {},
    "random efficientnet_lite0": {"weights": None},
    "random resnet18": {"name": "resnet18", "weights": None},
    "random deformable resnet50": {"name": "resnet50", "weights": None, "deformable": True},
}
CASES = [(variant, backbone, {}) for variant in VARIANTS for backbone in BACKBONES]
CASES += [
    (variant, "efficientnet_lite0", {"pyramid_norm": norm, "head_norm": norm})
    for variant in ("e_ups whole", "lwl_htc", "lwl_htc dc per level lsh")
    for norm in ("gn", "syncbn")
]


def chances(weights: dict[str, float]) -> dict[str, float]:
    """Loss → its value where all logits are equal, of 2 things, 2 stuff classes and at most 2 instances an image."""
    things, classes, masks = math.log(3), math.log(4), math.log(2)
    semantic = weights["semantic_loss_weight"] * classes
    stages = {
        f"s{stage}.loss_{term}": weight * chance
        for stage, weight in enumerate((1.0, 0.5, 0.25))
        for term, chance in (("cls", things), ("mask", masks))
    }
    plain = {"loss_cls": things, "loss_mask": masks, "loss_semantic": semantic, "loss_semantic_roi": classes}
    return {"loss_rpn_cls": masks, "loss_semantic_seg": semantic, "loss_panoptic": math.log(4)} | plain | stages


@pytest.mark.parametrize(("variant", "backbone", "norms"), CASES, ids=str)
def test_every_loss_starts_within_a_fifth_of_chance(variant, backbone, norms, dataset):
    end, changes = VARIANTS[variant]
    settings = PLAIN[end] | changes | norms
    settings["backbone"] = settings["backbone"] | BACKBONES[backbone]
    torch.manual_seed(0)
    network = BUILDERS[end](num_things=2, num_classes=4, test_proposals=30, **settings)
    network.init_weights()
    logged = losses_of(network, batch_of(network, dataset, (0, 0, 0, 0), photometric=0.2))
    checked = {name: chance for name, chance in chances(settings).items() if name in logged}
    assert len(checked) >= 4
    assert {name: logged[name].item() for name in checked} == pytest.approx(checked, rel=0.2)
