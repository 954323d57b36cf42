"""That training starts at sound scales: every loss near chance, and no component far from what it stands in for."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from antvisionps.datasets.scenes import CATEGORIES as SCENE_CATEGORIES
from antvisionps.datasets.scenes import write_scenes
from antvisionps.models.blocks.norms import PYRAMID_SCALE
from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import Segment
from antvisionps.params.whole import load_params
from tests.models.conftest import batch_of

NUM_THINGS, NUM_CLASSES = len(SCENE_CATEGORIES.things), len(SCENE_CATEGORIES)
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
NO_DC_HEAD = {"deformable_semantic_head": None, "uncertainty": None}
PLAIN = {"e_ups": PARAMS.train_e_ups.network("base"), "lwl_htc": PARAMS.train_lwl_htc.network("base") | NO_DC_HEAD}
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
    "lwl_htc dc per level uncertainty": ("lwl_htc", PER_LEVEL | {"uncertainty": "task"}),
    "lwl_htc dc per level lsh": ("lwl_htc", PER_LEVEL | LSH),
}
"""Of the report's tables 1 and 2, with their other parts."""

BACKBONES = {
    "efficientnet_lite0": {},
    "random efficientnet_lite0": {"weights": None},
    "random resnet18": {"name": "resnet18", "weights": None},
    "random deformable resnet50": {"name": "resnet50", "weights": None, "deformable": True},
}
RARER_BACKBONES = ("random efficientnet_lite0", "random deformable resnet50")
CASES = [(variant, backbone, {}) for variant in VARIANTS for backbone in ("efficientnet_lite0", "random resnet18")]
CASES += [(variant, backbone, {}) for variant in ("e_ups bfp lsh", "lwl_htc dc") for backbone in RARER_BACKBONES]
CASES += [
    (variant, backbone, {"pyramid_norm": "gn"})
    for variant in VARIANTS
    for backbone in ("efficientnet_lite0", "random resnet18")
]
CASES += [
    (variant, "efficientnet_lite0", {"pyramid_norm": norm, "head_norm": norm})
    for variant in ("e_ups whole", "lwl_htc", "lwl_htc dc per level lsh")
    for norm in ("gn", "syncbn")
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> PanopticDataset:
    """Two pictures of the built-in data."""
    folder = tmp_path_factory.mktemp("scenes")
    images = write_scenes(folder, seed=0, image_ids=(1, 2), height=96, width=112)
    return PanopticDataset(
        annotations=folder / "train.json",
        images_dir=folder / "images",
        panoptic_dir=folder / "panoptic",
        categories=SCENE_CATEGORIES,
        images=images,
    )


def is_instance(segment: Segment) -> bool:
    return SCENE_CATEGORIES.by_id(segment.category_id).is_thing and not segment.is_crowd


def chances(weights: dict[str, float], dataset: PanopticDataset) -> dict[str, float]:
    """Loss → its value where all logits are equal."""
    things, classes, masks = math.log(NUM_THINGS + 1), math.log(NUM_CLASSES), math.log(2)
    channels = [
        NUM_CLASSES - NUM_THINGS + len([s for s in image.segments if is_instance(s)]) + 1 for image in dataset.images
    ]
    panoptic = sum(map(math.log, channels)) / len(channels)
    semantic = weights["semantic_loss_weight"] * classes
    stages = {
        f"s{stage}.loss_{term}": weight * chance
        for stage, weight in enumerate((1.0, 0.5, 0.25))
        for term, chance in (("cls", things), ("mask", masks))
    }
    plain = {"loss_cls": things, "loss_mask": masks, "loss_semantic": semantic, "loss_semantic_roi": classes}
    return {"loss_rpn_cls": masks, "loss_semantic_seg": semantic, "loss_panoptic": panoptic} | plain | stages


def start(
    variant: str, backbone: str = "efficientnet_lite0", *, seed: int = 0, **norms: str
) -> tuple[Any, dict[str, Any]]:
    """A fresh network of the variant, and its settings."""
    end, changes = VARIANTS[variant]
    settings = PLAIN[end] | changes | norms
    settings["backbone"] = settings["backbone"] | BACKBONES[backbone]
    torch.manual_seed(seed)
    network = BUILDERS[end](num_things=NUM_THINGS, num_classes=NUM_CLASSES, test_proposals=30, **settings)
    network.init_weights()
    return network, settings


@pytest.mark.parametrize(("variant", "backbone", "norms"), CASES, ids=str)
def test_every_loss_starts_within_a_fifth_of_chance(variant, backbone, norms, scenes):
    """In the mean of a few starts where the backbone is random, too."""
    losses = []
    for seed in range(3 if backbone.startswith("random") else 1):
        network, settings = start(variant, backbone, seed=seed, **norms)
        batch = batch_of(network, scenes, (0, 1))
        torch.manual_seed(1)  # the samplers of proposals draw
        with torch.no_grad():
            losses.append(network.train().parse_losses(network(**batch, mode="loss"))[1])
    checked = {name: chance for name, chance in chances(settings, scenes).items() if name in losses[0]}
    assert len(checked) >= 4
    assert {name: fmean(of[name].item() for of in losses) for name in checked} == pytest.approx(checked, rel=0.2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_levels_of_a_normed_pyramid_have_one_scale_with_any_backbone_and_balancing_keeps_it(backbone, scenes):
    for variant in ("e_ups", "e_ups bfp"):
        network, _ = start(variant, backbone, pyramid_norm="gn")
        levels = network.eval().extract(batch_of(network, scenes, (0, 1))["inputs"])
        # P6 is a quarter of the cells of P5.
        assert [level.std().item() for level in levels[:4]] == pytest.approx([PYRAMID_SCALE] * 4, rel=0.1)


def deviations(variant: str, scenes: PanopticDataset) -> dict[str, float]:
    """With a normed pyramid: of box deltas, and of the semantic embedding that HTC's RoI heads add."""
    network, _ = start(variant, pyramid_norm="gn")
    features = network.eval().extract(batch_of(network, scenes, (0,))["inputs"])
    boxes = torch.tensor([[4.0, 4, 40, 30], [20, 10, 60, 60], [0, 0, 79, 63]])
    rois = torch.nn.functional.pad(boxes, (1, 0))
    if variant.startswith("e_ups"):
        return {"deltas": network.roi_head._bbox_forward(features, rois)["bbox_pred"].std().item()}
    embedding = features.semantic_embedding
    outputs = network.roi_head._bbox_forward(0, features.pyramid, rois, embedding)
    return {"deltas": outputs["bbox_pred"].std().item(), "embedding": embedding.std().item()}


@pytest.mark.parametrize(
    ("variant", "plain"), [("e_ups lsh", "e_ups"), ("lwl_htc dc per level lsh", "lwl_htc"), ("lwl_htc dc", "lwl_htc")]
)
def test_a_component_starts_at_the_scale_of_what_it_replaces(variant, plain, scenes):
    found, expected = deviations(variant, scenes), deviations(plain, scenes)
    assert {name: 0.5 < found[name] / expected[name] < 2 for name in expected} == dict.fromkeys(expected, True), found
