"""What reaches what in the location sensitive header, and that E-UPS scores with it as it trains it."""

import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from torch.nn import functional as F
from torchvision.ops import roi_align

from antvisionps.models.blocks.location_sensitive import LocationSensitiveRoIHead
from tests.models.conftest import batch_of, build, losses_of


@pytest.fixture(scope="module")
def network():
    return build("e_ups", location_sensitive_header=True, mask_convs=2)


def test_the_mask_loss_on_shared_features_is_that_of_features_computed_anew(network, dataset, monkeypatch):
    network.train()
    batch = batch_of(network, dataset, (0, 1))
    shared = losses_of(network, batch)["loss_mask"]
    # mmdet's own: RoIs of the positive boxes, features and masks from them.
    monkeypatch.setattr(LocationSensitiveRoIHead, "mask_loss", LocationSensitiveRoIHead.__base__.mask_loss)
    torch.testing.assert_close(losses_of(network, batch)["loss_mask"], shared)


@torch.inference_mode()
def test_scores_and_boxes_are_those_of_the_formula(network):
    network.eval()
    features = network.extract(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    boxes = torch.tensor([[4.0, 6, 40, 50], [10, 3, 90, 60]])  # both small enough for P2
    head = network.roi_head.bbox_head
    rois = bbox2roi([boxes])
    small = roi_align(features[0], rois, 7, 0.25, aligned=True).flatten(1)
    for layer in head.cls_fcs:
        small = F.relu(layer(small))
    tower = roi_align(features[0], rois, 14, 0.25, aligned=True)
    for conv in network.roi_head.tower.convs:
        tower = F.relu(F.conv2d(tower, conv.conv.weight, conv.conv.bias, padding=1))
    deltas = head.fc_reg(F.relu(head.reg_fcs[0](F.avg_pool2d(tower, 2).flatten(1))))
    refined, probabilities = network.score_boxes(features, boxes, (64, 96))
    torch.testing.assert_close(probabilities, head.fc_cls(small).softmax(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(refined, head.bbox_coder.decode(boxes, deltas, max_shape=(64, 96)))
    logits = network.mask_logits(features, boxes, torch.tensor([1, 0]))
    expected = network.roi_head.mask_head(tower)[[0, 1], [1, 0]]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
