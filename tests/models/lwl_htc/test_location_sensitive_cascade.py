"""What reaches what in the cascade's location sensitive header, and that LWL-HTC scores with it as it trains it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from antvisionps.models.training.data import TrainingSamples, collate
from mmdet.models.roi_heads import HybridTaskCascadeRoIHead
from mmdet.structures.bbox import bbox2roi
from torch.nn import functional as F
from torchvision.ops import roi_align

from antvisionps.models.inference.views import predict_image
from antvisionps.models.lwl_htc.network import build_lwl_htc


def make(network_settings, *, header: bool):
    torch.manual_seed(0)
    settings = network_settings["lwl_htc"] | {"location_sensitive_header": header, "mask_convs": 2}
    network = build_lwl_htc(num_things=2, num_classes=4, test_proposals=30, **settings)
    network.init_weights()
    return network


@pytest.fixture
def network(network_settings):
    return make(network_settings, header=True)


@pytest.fixture
def batch(network, dataset):
    """A batch whose first image has things."""
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=True, photometric=0.1)
    return network.data_preprocessor(collate([samples[0, 0], samples[1, 1]]), training=True)


@pytest.fixture
def losses(network, batch):
    network.train()
    return network.loss(batch["inputs"], batch["data_samples"])


def reached(network, loss: torch.Tensor) -> set[str]:
    """Parts of the RoI head, each with its stage, that this loss has a gradient for."""
    network.zero_grad()
    loss.backward(retain_graph=True)
    parts = {}
    for stage, (box, mask) in enumerate(zip(network.roi_head.bbox_head, network.roi_head.mask_head, strict=True)):
        parts |= {
            f"class {stage}": (box.cls_fcs, box.fc_cls),
            f"deltas {stage}": (box.fc_reg,),
            f"tower {stage}": (mask.convs,),
            f"mask {stage}": (mask.upsample, mask.conv_logits),
        }
        if stage > 0:
            parts[f"flow {stage}"] = (mask.conv_res,)
    return {
        name
        for name, modules in parts.items()
        if any(p.grad is not None and p.grad.abs().sum() > 0 for module in modules for p in module.parameters())
    }


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_boxes_and_masks_of_a_stage_train_its_tower_and_classes_their_own_layers(network, losses, stage):
    towers = {f"tower {s}" for s in range(stage + 1)} | {f"flow {s}" for s in range(1, stage + 1)}
    assert reached(network, losses[f"s{stage}.loss_cls"]) == {f"class {stage}"}
    assert reached(network, losses[f"s{stage}.loss_bbox"]) == {f"deltas {stage}"} | towers
    assert reached(network, losses[f"s{stage}.loss_mask"]) == {f"mask {stage}"} | towers


@pytest.mark.parametrize("term", ["cls", "bbox", "mask"])
def test_every_loss_reaches_the_pyramid_and_the_semantic_embedding(network, losses, term):
    for stage in range(3):
        reached(network, losses[f"s{stage}.loss_{term}"])
        assert network.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
        assert network.roi_head.semantic_head.conv_embedding.conv.weight.grad.abs().sum() > 0


def test_all_that_can_learn_gets_a_gradient_and_a_step_lowers_the_loss(network, batch):
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    network.train()
    totals = []
    for _ in range(2):
        optimizer.zero_grad()
        torch.manual_seed(0)  # the samplers of proposals draw from it
        total, _ = network.parse_losses(network.loss(batch["inputs"], batch["data_samples"]))
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
    assert totals[1] < totals[0]


@torch.inference_mode()
def test_scores_and_boxes_of_every_stage_are_those_of_the_formula(network):
    network.eval()
    features = network.extract(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    boxes = torch.tensor([[4.0, 6, 40, 50], [10, 3, 90, 60]])  # both small enough for P2
    rois = bbox2roi([boxes])
    embedding = roi_align(features.semantic_embedding, rois, 14, 1 / 8, aligned=True)
    small = roi_align(features.pyramid[0], rois, 7, 0.25, aligned=True) + F.avg_pool2d(embedding, 2)
    large = roi_align(features.pyramid[0], rois, 14, 0.25, aligned=True) + embedding
    tower = None
    for stage, (box, mask) in enumerate(zip(network.roi_head.bbox_head, network.roi_head.mask_head, strict=True)):
        entering = large
        if stage > 0:
            flow = mask.conv_res.conv
            entering = large + F.relu(F.conv2d(tower, flow.weight, flow.bias))
        tower = entering
        for conv in mask.convs:
            tower = F.relu(F.conv2d(tower, conv.conv.weight, conv.conv.bias, padding=1))
        hidden = small.flatten(1)
        for layer in box.cls_fcs:
            hidden = F.relu(layer(hidden))
        got = network.roi_head._bbox_forward(stage, features.pyramid, rois, semantic_feat=features.semantic_embedding)
        torch.testing.assert_close(got["cls_score"], box.fc_cls(hidden), rtol=1e-4, atol=1e-5)
        deltas = box.fc_reg(F.avg_pool2d(tower, 2).flatten(1))
        assert deltas.shape == (2, 4)  # of all classes alike
        torch.testing.assert_close(got["bbox_pred"], deltas, rtol=1e-4, atol=1e-5)


def test_a_picture_is_predicted_with_it(network):
    network.eval()
    photo = np.random.default_rng(5).integers(0, 255, (64, 80, 3)).astype(np.uint8)
    settings = {"short_sides_px": (64,), "max_long_side_px": 128, "flip": True}
    got = predict_image(photo, [network], [1.0], **settings, min_score=0.1, nms_iou=0.5, max_instances=20)
    assert len(got.scores) > 0
    assert got.mask_probs.shape == (len(got.scores), 28, 28)
    assert got.semantic_probs.shape == (4, 8, 10)


def test_without_it_the_cascade_is_mmdets_own_and_its_masks_have_the_same_weights(network, network_settings):
    plain = make(network_settings, header=False)
    assert type(plain.roi_head) is HybridTaskCascadeRoIHead
    shapes = [{name: tuple(t.shape) for name, t in made.state_dict().items()} for made in (plain, network)]
    differing = {name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)}
    assert differing
    assert all(name.startswith("roi_head.bbox_head.") for name in differing)
