"""What reaches what in the cascade's location sensitive header, and that LWL-HTC scores with it as it trains it."""

import pytest
import torch
from mmdet.models.roi_heads import HybridTaskCascadeRoIHead
from mmdet.structures.bbox import bbox2roi
from torch.nn import functional as F
from torchvision.ops import roi_align

from antvisionps.models.inference.views import predict_image
from tests.models.conftest import PREDICTION, build, photo


@pytest.fixture(scope="module")
def network():
    return build("lwl_htc", location_sensitive_header=True, mask_convs=2, sharp=True)


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
        deltas = box.fc_reg(F.relu(box.reg_fcs[0](F.avg_pool2d(tower, 2).flatten(1))))
        assert deltas.shape == (2, 4)  # of all classes alike
        torch.testing.assert_close(got["bbox_pred"], deltas, rtol=1e-4, atol=1e-5)


def test_a_picture_is_predicted_with_it(network):
    found = predict_image(photo(), [network.eval()], [1.0], PREDICTION).instances
    assert len(found.scores) > 0
    assert found.mask_probs.shape == (len(found.scores), 28, 28)


def test_without_it_the_cascade_is_mmdets_own_and_its_masks_have_the_same_weights(network):
    plain = build("lwl_htc", mask_convs=2)
    assert type(plain.roi_head) is HybridTaskCascadeRoIHead
    shapes = [{name: tuple(t.shape) for name, t in made.state_dict().items()} for made in (plain, network)]
    differing = {name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)}
    assert differing
    assert all(name.startswith("roi_head.bbox_head.") for name in differing)
