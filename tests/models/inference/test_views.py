"""Test-time sizes and mirroring: proposals that all views share, and the mean of what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_mapping
from torch.nn import functional as F

from antvisionps.models.inference.views import ForwardPass, View, predict_image
from tests.models.conftest import NETWORK, PREDICTION, build, photo

ENDS = ("e_ups", "lwl_htc")
HW = (64, 96)


@pytest.fixture(scope="module")
def networks():
    return {end: build(end, seed=10, sharp=True).eval() for end in ENDS}


def predict(*networks, picture=None, weights=None, **changes):
    picture = photo(HW) if picture is None else picture
    return predict_image(picture, networks, weights or [1.0] * len(networks), replace(PREDICTION, **changes))


def refuse_other(got, expected) -> None:
    for name, atol in (("boxes_xyxy", 1e-3), ("scores", 1e-5), ("mask_probs", 1e-5)):
        np.testing.assert_allclose(getattr(got.instances, name), getattr(expected.instances, name), atol=atol)
    np.testing.assert_allclose(got.semantic_probs, expected.semantic_probs, atol=1e-6)


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
def test_a_size_given_twice_is_that_size_and_equal_members_are_one_member(networks, end):
    network = networks[end]
    once = predict(network)
    refuse_other(predict(network, short_sides_px=(64, 64)), once)
    refuse_other(predict(network, network, network, weights=[0.4, 1.2, 1.1]), once)


@pytest.mark.parametrize(("end", "stride"), [("e_ups", 4), ("lwl_htc", 8)])
def test_semantic_probabilities_cover_the_valid_input_alone(networks, end, stride):
    # 70 x 90 is padded to 96 x 96; the grid that comes back must not show the padding.
    got = predict(networks[end], picture=photo((70, 90)), short_sides_px=(70,))
    assert got.input_hw == (70, 90)
    assert got.semantic_probs.shape == (4, -(-70 // stride), -(-90 // stride))
    assert got.semantic_stride == stride
    np.testing.assert_allclose(got.semantic_probs.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("end", ENDS)
def test_where_nothing_is_proposed_or_scores_enough_there_are_semantics_and_no_instance(networks, monkeypatch, end):
    network = networks[end]
    expected = predict(network, flip=True).semantic_probs
    weak = predict(network, flip=True, min_score=1.0)
    monkeypatch.setattr(network, "propose", lambda features, sample: (torch.zeros(0, 4), torch.zeros(0)))
    for nothing in (weak, predict(network, flip=True)):
        found = nothing.instances
        assert (found.boxes_xyxy.shape, found.mask_probs.shape) == ((0, 4), (0, 28, 28))
        assert found.scores.shape == found.class_indices.shape == (0,)
        np.testing.assert_array_equal(nothing.semantic_probs, expected)


@pytest.mark.parametrize("end", ENDS)
def test_with_mirroring_a_mirrored_picture_gives_the_mirrored_result(networks, end):
    network = networks[end]
    plain, mirrored = (predict(network, picture=seen, flip=True) for seen in (photo(HW), photo(HW)[:, ::-1]))
    found, seen = plain.instances, mirrored.instances
    assert len(found.scores) > 3
    np.testing.assert_allclose(seen.scores, found.scores, atol=1e-4)
    left, top, right, bottom = found.boxes_xyxy.T
    np.testing.assert_allclose(seen.boxes_xyxy, np.stack([96 - right, top, 96 - left, bottom], axis=1), atol=1e-2)
    np.testing.assert_allclose(seen.mask_probs, found.mask_probs[:, :, ::-1], atol=1e-3)
    np.testing.assert_allclose(mirrored.semantic_probs, plain.semantic_probs[:, :, ::-1], atol=1e-5)
    assert not np.allclose(plain.semantic_probs, predict(network).semantic_probs, atol=1e-3)


def test_semantics_of_several_sizes_are_the_mean_on_the_first_ones_grid(networks):
    network = networks["e_ups"]
    small, large = (predict(network, short_sides_px=(side,)).semantic_probs for side in (64, 128))
    both = predict(network, short_sides_px=(64, 128))
    resized = F.interpolate(torch.from_numpy(large)[None], size=small.shape[1:], mode="bilinear", align_corners=False)
    np.testing.assert_allclose(both.semantic_probs, (small + resized[0].numpy()) / 2, atol=1e-5)
    assert both.input_hw == (64, 96)
    other = predict(network, short_sides_px=(128, 64))
    assert other.input_hw == (128, 192)
    assert other.semantic_probs.shape == large.shape


@torch.inference_mode()
def test_mirrored_semantics_of_an_odd_width_are_put_back_in_place(networks):
    # 70 x 90 fills 17.5 x 22.5 cells: mirrored, the picture's edge lies inside a cell.
    network, picture = networks["e_ups"], photo((70, 90))
    frame, mirrored = View((70, 90), False), View((70, 90), True)
    got = ForwardPass.of(picture, network, mirrored, frame).semantic_probabilities()
    seen = ForwardPass.of(picture[:, ::-1], network, frame, frame).semantic_probabilities()
    assert got.shape == seen.shape == (4, 18, 23)
    # Cell i has its centre at (i + 0.5) * 4 px, which is 90 px less that in the mirror.
    for column in range(23):
        place = min(max((90 - (column + 0.5) * 4) / 4 - 0.5, 0), 22)
        left = int(place)
        right = min(left + 1, 22)
        expected = seen[..., left] * (left + 1 - place) + seen[..., right] * (place - left)
        torch.testing.assert_close(got[..., column], expected, rtol=1e-4, atol=1e-5)


PAIRS = {
    "another shape": ("e_ups", {"semantic_channels": [8]}),
    "another normalisation": ("e_ups", {"backbone": NETWORK["backbone"] | {"name": "resnet18"}}),
    "semantics alone": ("hrnet_aspp", {"aspp_rates": (1, 3)}),
}


@pytest.mark.parametrize(("end", "changes"), PAIRS.values(), ids=PAIRS)
def test_semantics_are_the_mean_over_members_by_weight_and_over_mirrored_views(end, changes):
    pair = [build(end, sharp=True).eval(), build(end, seed=3, sharp=True, **changes).eval()]
    for network in pair if end == "hrnet_aspp" else ():
        torch.nn.init.normal_(network.decoder.classifier.weight)
    seen = [predict(network).semantic_probs for network in pair]
    seen += [predict(network, picture=photo(HW)[:, ::-1]).semantic_probs[..., ::-1] for network in pair]
    assert np.abs(seen[0] - seen[1]).max() > 0.01
    for weights in ([1.0, 3.0], [1.0, 0.0]):
        got = predict(*pair, weights=weights, flip=True)
        np.testing.assert_allclose(got.semantic_probs, np.average(seen, axis=0, weights=2 * weights), atol=1e-5)
        assert (got.instances is None) == (end == "hrnet_aspp")
