"""Test-time sizes and mirroring: proposals that all views share, and the mean of what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_mapping
from torch.nn import functional as F

from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.inference.views import Look, View, predict_image, predict_semantics

SETTINGS = {
    "short_sides_px": (64,),
    "max_long_side_px": 200,
    "flip": False,
    "min_score": 0.3,
    "nms_iou": 0.5,
    "max_instances": 20,
}
ENDS = ("e_ups", "lwl_htc")


@pytest.fixture
def build(network_settings):
    def build_network(end: str = "e_ups", **changes):
        torch.manual_seed(3)
        network = BUILDERS[end](num_things=2, num_classes=4, test_proposals=30, **(network_settings[end] | changes))
        network.init_weights()
        for name, parameter in network.named_parameters():
            if name.endswith(("fc_cls.weight", "fc_reg.weight", "conv_logits.weight")):
                torch.nn.init.normal_(parameter, std=0.6)
        return network.eval()

    return build_network


def photo(hw=(64, 96)) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 255, (*hw, 3)).astype(np.uint8)


def predict(network, picture=None, **changes):
    return predict_image(photo() if picture is None else picture, [network], [1.0], **(SETTINGS | changes))


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_move_between_views_as_mmdets_do(mirrored):
    frame, view = View((64, 96), False), View((96, 160), mirrored)
    boxes = torch.tensor([[0.0, 0, 96, 64], [3, 5, 20, 40]])
    scale = (160 / 96, 96 / 64) * 2
    expected = bbox_mapping(boxes, (96, 160), scale, mirrored)
    torch.testing.assert_close(view.map_boxes(boxes, frame), expected)
    torch.testing.assert_close(frame.map_boxes(expected, view), boxes)
    # A box a class, side by side, and none at all.
    torch.testing.assert_close(view.map_boxes(boxes.repeat(1, 3), frame), expected.repeat(1, 3))
    assert view.map_boxes(boxes[:0], frame).shape == (0, 4)


@pytest.mark.parametrize("end", ENDS)
def test_a_size_given_twice_is_that_size(build, end):
    network = build(end)
    once, twice = predict(network), predict(network, short_sides_px=(64, 64))
    np.testing.assert_allclose(twice.boxes_xyxy, once.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(twice.scores, once.scores, atol=1e-5)
    np.testing.assert_allclose(twice.mask_probs, once.mask_probs, atol=1e-5)
    np.testing.assert_allclose(twice.semantic_probs, once.semantic_probs, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_a_network_that_proposes_nothing_gives_its_semantics_and_no_instance(build, monkeypatch, end, flip):
    network = build(end)
    expected = predict(network, flip=flip).semantic_probs
    monkeypatch.setattr(network, "propose", lambda features, sample: (torch.zeros(0, 4), torch.zeros(0)))
    nothing = predict(network, flip=flip)
    assert nothing.boxes_xyxy.shape == (0, 4)
    assert nothing.scores.shape == nothing.class_indices.shape == (0,)
    assert nothing.mask_probs.shape[0] == 0
    np.testing.assert_array_equal(nothing.semantic_probs, expected)


@pytest.mark.parametrize("end", ENDS)
def test_with_mirroring_a_mirrored_picture_gives_the_mirrored_result(build, end):
    network = build(end)
    plain = predict(network, flip=True)
    mirrored = predict(network, photo()[:, ::-1], flip=True)
    assert len(plain.scores) > 3
    np.testing.assert_allclose(mirrored.scores, plain.scores, atol=1e-4)
    boxes = plain.boxes_xyxy
    boxes = np.stack([96 - boxes[:, 2], boxes[:, 1], 96 - boxes[:, 0], boxes[:, 3]], axis=1)
    np.testing.assert_allclose(mirrored.boxes_xyxy, boxes, atol=1e-2)
    np.testing.assert_allclose(mirrored.mask_probs, plain.mask_probs[:, :, ::-1], atol=1e-3)
    np.testing.assert_allclose(mirrored.semantic_probs, plain.semantic_probs[:, :, ::-1], atol=1e-5)
    assert not np.allclose(plain.semantic_probs, predict(network).semantic_probs, atol=1e-3)


def test_semantics_of_several_sizes_are_the_mean_on_the_first_ones_grid(build):
    network = build()
    small, large = (predict(network, short_sides_px=(side,)).semantic_probs for side in (64, 128))
    both = predict(network, short_sides_px=(64, 128))
    resized = F.interpolate(torch.from_numpy(large)[None], size=small.shape[1:], mode="bilinear", align_corners=False)
    np.testing.assert_allclose(both.semantic_probs, (small + resized[0].numpy()) / 2, atol=1e-5)
    assert both.input_hw == (64, 96)
    other = predict(network, short_sides_px=(128, 64))
    assert other.input_hw == (128, 192)
    assert other.semantic_probs.shape == large.shape


@torch.inference_mode()
def test_mirrored_semantics_of_an_odd_width_are_put_back_in_place(build):
    # 70 x 90 fills 17.5 x 22.5 cells: mirrored, the picture's edge lies inside a cell.
    network = build()
    picture = photo((70, 90))
    frame, mirrored = View((70, 90), False), View((70, 90), True)
    got = Look.at(picture, network, mirrored, frame).semantic_probabilities()
    seen = Look.at(picture[:, ::-1], network, frame, frame).semantic_probabilities()
    assert got.shape == seen.shape == (4, 18, 23)
    # Cell i has its centre at (i + 0.5) * 4 px, which is 90 px less that in the mirror.
    for column in range(23):
        place = min(max((90 - (column + 0.5) * 4) / 4 - 0.5, 0), 22)
        left = int(place)
        right = min(left + 1, 22)
        expected = seen[..., left] * (left + 1 - place) + seen[..., right] * (place - left)
        torch.testing.assert_close(got[..., column], expected, rtol=1e-4, atol=1e-5)


def test_every_look_counts_by_its_networks_weight(build):
    first, second = build(), build(semantic_channels=[8])
    alone = [predict(network, flip=True).semantic_probs for network in (first, second)]
    both = predict_image(photo(), [first, second], [3.0, 1.0], **(SETTINGS | {"flip": True}))
    np.testing.assert_allclose(both.semantic_probs, 0.75 * alone[0] + 0.25 * alone[1], atol=1e-6)


def test_every_network_normalises_the_photo_for_itself(build):
    efficientnet = build()
    resnet = build(
        backbone={"name": "resnet18", "weights": None, "frozen_stages": 0, "frozen_norm": True, "deformable": False}
    )
    alone = [predict(network).semantic_probs for network in (efficientnet, resnet)]
    both = predict_image(photo(), [efficientnet, resnet], [1.0, 1.0], **SETTINGS)
    np.testing.assert_allclose(both.semantic_probs, (alone[0] + alone[1]) / 2, atol=1e-6)


SIZES = {"short_sides_px": (64, 96), "max_long_side_px": 200, "flip": True}


def test_semantics_alone_are_those_that_come_with_instances(build):
    networks, weights = [build(), build(semantic_channels=[8])], [1.0, 3.0]
    whole = predict_image(photo(), networks, weights, **SETTINGS | SIZES)
    alone = predict_semantics(photo(), networks, weights, **SIZES)
    assert np.array_equal(alone.semantic_probs, whole.semantic_probs)
    assert (alone.image_hw, alone.input_hw, alone.semantic_stride) == (whole.image_hw, whole.input_hw, 4)


def test_a_network_of_semantics_alone_is_averaged_over_members_and_mirrored_views(build):
    networks = [build("hrnet_aspp"), build("hrnet_aspp", aspp_rates=(1, 3))]
    for network in networks:
        torch.nn.init.normal_(network.decoder.classifier.weight)
    one_size = SIZES | {"short_sides_px": (64,)}
    plain = one_size | {"flip": False}
    got = predict_semantics(photo(), networks, [1.0, 3.0], **one_size).semantic_probs
    seen = [predict_semantics(photo(), [network], [1.0], **plain).semantic_probs for network in networks]
    mirrored = np.ascontiguousarray(photo()[:, ::-1])
    seen += [predict_semantics(mirrored, [n], [1.0], **plain).semantic_probs[..., ::-1] for n in networks]
    assert np.abs(seen[0] - seen[1]).max() > 0.05
    np.testing.assert_allclose(got, np.average(seen, axis=0, weights=[1, 3, 1, 3]), atol=1e-5)
