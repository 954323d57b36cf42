"""E-UPS's losses against mmdet's, one by one and all together."""

from __future__ import annotations

import pytest
import torch
from antvisionps.models.blocks.semantic_head import crop_classes
from antvisionps.models.training.data import TrainingSamples, collate
from mmdet.models.detectors import TwoStagePanopticSegmentor
from torch.nn import functional as F
from torchvision.ops import roi_align

from antvisionps.models.e_ups.network import build_e_ups

WHOLE = {
    "image_context": True,
    "balanced_pyramid_level": 2,
    "location_sensitive_header": True,
    "roi_semantic_loss_weight": 0.04,
    "panoptic_loss_weight": 0.1,
    "unknown_frac": 0.3,
}


@pytest.fixture
def build(network_settings):
    def build_network(**changes):
        torch.manual_seed(0)
        network = build_e_ups(num_things=2, num_classes=4, test_proposals=30, **(network_settings["e_ups"] | changes))
        network.init_weights()
        return network.train()

    return build_network


def batch(network, dataset, positions=(0, 1, 2)):
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=True, photometric=0.1)
    data = network.data_preprocessor(collate([samples[number, number] for number in positions]), training=True)
    return data["inputs"], data["data_samples"]


def losses_of(network, data, loss=None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    total, logged = network.parse_losses(loss(network, *data) if loss else network.loss(*data))
    total.backward()
    return logged


def test_without_extras_the_losses_are_those_of_mmdets_panoptic_segmentor(build, dataset):
    network = build()
    data = batch(network, dataset)
    got = losses_of(network, data)
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    expected = losses_of(network, data, TwoStagePanopticSegmentor.loss)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
    for name, p in network.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad)


@pytest.mark.parametrize("positions", [(0, 1, 2), (1,), (2,)])
def test_whole_e_ups_learns_everywhere_from_any_picture(build, dataset, positions):
    network = build(**WHOLE)
    logged = losses_of(network, batch(network, dataset, positions))
    assert {"loss_semantic", "loss_semantic_roi", "loss_panoptic"} <= logged.keys()
    assert all(torch.isfinite(value).all() for value in logged.values())
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_whole_e_ups_in_bfloat16_is_close_to_float32(build, dataset):
    network = build(**WHOLE)
    data = batch(network, dataset)
    exact = losses_of(network, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = losses_of(network, data)
    assert rounded["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.05)


@pytest.mark.parametrize(
    ("loss", "reached", "spared"),
    [
        ("loss_panoptic", ["semantic_head.classifier", "roi_head.mask_head", "roi_head.tower"], ["roi_head.bbox_head"]),
        ("loss_semantic_roi", ["semantic_head.classifier", "semantic_head.subnet"], ["roi_head"]),
    ],
)
def test_the_extra_losses_reach_their_heads(build, dataset, loss, reached, spared):
    network = build(**WHOLE)
    torch.manual_seed(1)
    network.loss(*batch(network, dataset, (0,)))[loss].backward()
    learnt = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in reached:
        assert any(name.startswith(part) for name in learnt), part
    for part in spared:
        assert not any(name.startswith(part) for name in learnt), part


def test_the_roi_semantic_loss_is_cross_entropy_in_ground_truth_boxes(build, dataset):
    network = build(roi_semantic_loss_weight=0.04)
    images, samples = batch(network, dataset, (0,))
    head = network.semantic_head
    features = head.features(network.extract_feat(images))
    got = head.losses(features, head.classifier(features), samples)["loss_semantic_roi"]
    boxes, truth = samples[0].gt_instances.bboxes, samples[0].gt_sem_seg.sem_seg[0]
    pooled = roi_align(features, [boxes], 28, 0.25, aligned=True)
    logits = F.conv2d(pooled, head.classifier.weight, head.classifier.bias)
    target = torch.empty(len(boxes), 28, 28, dtype=torch.long)
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for i in range(28):
            for j in range(28):
                target[k, i, j] = truth[int(y0 + (i + 0.5) / 28 * (y1 - y0)), int(x0 + (j + 0.5) / 28 * (x1 - x0))]
    torch.testing.assert_close(got, 0.04 * F.cross_entropy(logits, target, ignore_index=255))


def test_cropped_classes_come_from_each_boxs_own_image():
    truth = torch.stack([torch.zeros(8, 8, dtype=torch.long), torch.arange(8).repeat(8, 1)])
    rois = torch.tensor([[1.0, 2, 0, 6, 8], [0, 0, 0, 8, 8]])
    assert crop_classes(truth, rois, size=4).tolist() == [[[2, 3, 4, 5]] * 4, [[0] * 4] * 4]
