"""Both networks against mmdet's own heads on the same weights and boxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.models.detectors import HybridTaskCascade
from mmdet.models.test_time_augs import merge_aug_masks
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config, ConfigDict

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.inference.views import _network_input, predict_image
from antvisionps.models.training.samples import TrainingSamples, collate

ENDS = ("e_ups", "lwl_htc")
SETTINGS = {
    "short_sides_px": (64,),
    "flip": False,
    "max_long_side_px": 128,
    "min_score": 0.3,
    "nms_iou": 0.5,
    "max_instances": 20,
}
MMDET_TEST_CFG = ConfigDict(
    score_thr=0.3, nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=20, mask_thr_binary=0.5
)


@pytest.fixture
def build(network_settings):
    def build_network(end: str, **changes):
        torch.manual_seed(3)
        network = BUILDERS[end](num_things=2, num_classes=4, test_proposals=30, **(network_settings[end] | changes))
        network.init_weights()
        _sharpen(network)
        network.eval()
        return network

    return build_network


def _sharpen(network):
    """Random heads say 1/3 of everything; larger last layers make scores, boxes and masks differ."""
    for name, parameter in network.named_parameters():
        if name.endswith(("fc_cls.weight", "fc_reg.weight", "conv_logits.weight")):
            torch.nn.init.normal_(parameter, std=0.6)


def photo(hw=(64, 80)) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 255, (*hw, 3)).astype(np.uint8)


def batch(dataset, network):
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=True, photometric=0.1)
    data = network.data_preprocessor(collate([samples[number, number % 3] for number in range(3)]), training=True)
    return data["inputs"], data["data_samples"]


@pytest.mark.parametrize("end", ENDS)
def test_every_weight_that_can_learn_gets_a_gradient(build, end, dataset):
    network = build(end)
    network.train()
    losses = network.loss(*batch(dataset, network))
    total, logged = network.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert any("semantic" in name for name in logged)
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("position", [1, 2])
def test_pictures_without_things_or_without_truth_give_finite_losses(build, end, position, dataset):
    network = build(end)
    network.train()
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    data = network.data_preprocessor(collate([samples[0, position]]), training=True)
    total, _ = network.parse_losses(network.loss(data["inputs"], data["data_samples"]))
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_htcs_branch_learns_from_every_pixel_of_the_photo_or_from_one_a_cell(build, dataset):
    losses = {}
    for loss_on in ("photo", "grid"):
        network = build("lwl_htc", semantic_loss_on=loss_on, semantic_loss_weight=0.5)
        inputs, samples = batch(dataset, network)
        logits = network.extract(inputs).semantic_logits
        network.train()
        losses[loss_on] = network.loss(inputs, samples)["loss_semantic_seg"]
    truth = torch.stack([sample.gt_sem_seg.sem_seg[0] for sample in samples]).long()
    stride = inputs.shape[-1] // logits.shape[-1]
    upsampled = torch.nn.functional.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
    for loss_on, seen, wanted in (("photo", upsampled, truth), ("grid", logits, truth[:, ::stride, ::stride])):
        expected = 0.5 * torch.nn.functional.cross_entropy(seen, wanted, ignore_index=255)
        torch.testing.assert_close(losses[loss_on], expected)


def test_htcs_branch_begins_with_small_logits(network_settings):
    network = BUILDERS["lwl_htc"](num_things=2, num_classes=4, test_proposals=30, **network_settings["lwl_htc"])
    network.init_weights()
    weight = network.roi_head.semantic_head.conv_logits.weight
    assert 0.005 < float(weight.detach().std()) < 0.015


@pytest.mark.parametrize("sharing", ["shared", "per_level"])
def test_the_dc_head_takes_the_place_of_htcs_branch(build, dataset, sharing):
    network = build("lwl_htc", deformable_semantic_head=sharing)
    network.train()
    network.parse_losses(network.loss(*batch(dataset, network)))[0].backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if p.requires_grad)
    network.eval()
    with torch.inference_mode():
        got = predict_image(photo(), [network], [1.0], **SETTINGS)
    assert got.semantic_probs.shape == (4, 8, 10)


@torch.inference_mode()
@pytest.mark.parametrize("hw", [(64, 80), (97, 130)])
@pytest.mark.parametrize("end", ENDS)
def test_boxes_scores_and_classes_are_mmdets(build, end, hw):
    network, picture = build(end), photo(hw)
    got = predict_image(picture, [network], [1.0], **SETTINGS)
    images, sample = _network_input(_resized(picture, got.input_hw), network)
    features = network.extract_feat(images)
    proposals = network.rpn_head.predict(features, [sample], rescale=False)
    extra = {"semantic_feat": network.roi_head.semantic_head(features)[1]} if end == "lwl_htc" else {}
    (expected,) = network.roi_head.predict_bbox(
        features, [sample.metainfo], proposals, rcnn_test_cfg=MMDET_TEST_CFG, rescale=False, **extra
    )
    scale = np.array([hw[1] / got.input_hw[1], hw[0] / got.input_hw[0]] * 2)
    assert len(got.scores) == len(expected.scores) > 3
    np.testing.assert_allclose(got.boxes_xyxy, expected.bboxes.numpy() * scale, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got.scores, expected.scores.numpy(), rtol=1e-5)
    assert got.class_indices.tolist() == expected.labels.tolist()


@torch.inference_mode()
def test_masks_of_e_ups_are_mmdets(build):
    network, picture = build("e_ups"), photo()
    network.roi_head.test_cfg = MMDET_TEST_CFG
    got = predict_image(picture, [network], [1.0], **SETTINGS)
    images, _ = _network_input(picture, network)
    features = network.extract_feat(images)
    logits = network.roi_head._mask_forward(features, bbox2roi([torch.from_numpy(got.boxes_xyxy)]))["mask_preds"]
    expected = logits.sigmoid()[range(len(logits)), got.class_indices]
    np.testing.assert_allclose(got.mask_probs, expected.numpy(), atol=1e-5)
    assert got.mask_probs.std() > 0.01


@torch.inference_mode()
def test_masks_of_lwl_htc_are_the_mean_over_the_three_stages(build):
    network, picture = build("lwl_htc"), photo()
    got = predict_image(picture, [network], [1.0], **SETTINGS)
    images, _ = _network_input(picture, network)
    features = network.extract_feat(images)
    embedding = network.roi_head.semantic_head(features)[1]
    rois = bbox2roi([torch.from_numpy(got.boxes_xyxy)])
    # mmdet's training pass of stage k runs all mask heads up to k: the slow way to every stage's masks.
    stages = [
        network.roi_head._mask_forward(k, features, rois, semantic_feat=embedding, training=True)["mask_preds"]
        for k in range(3)
    ]
    merged = merge_aug_masks([stage.sigmoid() for stage in stages], {"flip": False})
    np.testing.assert_allclose(got.mask_probs, merged[range(len(merged)), got.class_indices].numpy(), atol=1e-5)
    assert not torch.allclose(stages[0], stages[2], atol=1e-2)


@torch.inference_mode()
@pytest.mark.parametrize(("end", "stride"), [("e_ups", 4), ("lwl_htc", 8)])
def test_semantic_probabilities_cover_the_valid_input_alone(build, end, stride):
    # 70 x 90 is padded to 96 x 96; the grid that comes back must not show the padding.
    got = predict_image(photo((70, 90)), [build(end)], [1.0], **(SETTINGS | {"short_sides_px": (70,)}))
    assert got.input_hw == (70, 90)
    assert got.semantic_probs.shape == (4, -(-70 // stride), -(-90 // stride))
    assert got.semantic_stride == stride
    np.testing.assert_allclose(got.semantic_probs.sum(axis=0), 1, atol=1e-5)


@torch.inference_mode()
def test_the_semantic_level_of_lwl_htc_sets_its_stride(build):
    got = predict_image(photo(), [build("lwl_htc", semantic_level=0)], [1.0], **SETTINGS)
    assert got.semantic_stride == 4
    assert got.semantic_probs.shape == (4, 16, 20)
    with pytest.raises(ModelError, match="semantic_level is 7"):
        build("lwl_htc", semantic_level=7)


@torch.inference_mode()
@pytest.mark.parametrize("end", ENDS)
def test_a_picture_where_nothing_is_found_has_no_instance(build, end):
    got = predict_image(photo(), [build(end)], [1.0], **(SETTINGS | {"min_score": 1.0}))
    assert got.boxes_xyxy.shape == (0, 4)
    assert got.mask_probs.shape == (0, 28, 28)
    assert got.semantic_probs.shape[0] == 4


@torch.inference_mode()
@pytest.mark.parametrize("end", ENDS)
def test_equal_members_are_one_member(build, end):
    network = build(end)
    one = predict_image(photo(), [network], [1.0], **SETTINGS)
    three = predict_image(photo(), [network] * 3, [0.4, 1.2, 1.1], **SETTINGS)
    np.testing.assert_allclose(three.boxes_xyxy, one.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(three.scores, one.scores, atol=1e-5)
    np.testing.assert_allclose(three.mask_probs, one.mask_probs, atol=1e-5)
    np.testing.assert_allclose(three.semantic_probs, one.semantic_probs, atol=1e-6)


@torch.inference_mode()
def test_a_member_of_weight_zero_changes_the_proposals_but_not_the_semantics(build):
    first, second = build("e_ups"), build("e_ups", semantic_channels=[8])
    one = predict_image(photo(), [first], [1.0], **SETTINGS)
    both = predict_image(photo(), [first, second], [1.0, 0.0], **SETTINGS)
    np.testing.assert_allclose(both.semantic_probs, one.semantic_probs, atol=1e-6)


def _resized(picture, hw):
    return cv2.resize(picture, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)


HTC_CONFIG = Path(mmdet.__file__).parent / ".mim" / "configs" / "htc" / "htc_r50_fpn_1x_coco.py"
NARROW = {256: 16, 1024: 32, 512: 16, 183: 4, 80: 2}
"""mmdet's widths, samples and numbers of classes → those of the test."""


def narrowed(settings, *, keep: tuple[str, ...] = ("backbone", "neck")):
    """mmdet's settings with NARROW's numbers, but for the parts that describe the backbone."""
    if isinstance(settings, dict):
        return {key: value if key in keep else narrowed(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [narrowed(value) for value in settings]
    return NARROW.get(settings, settings) if type(settings) is int else settings


def mmdets_htc() -> HybridTaskCascade:
    """The model of mmdet's own config file, narrow, with what we do differently written out."""
    settings = narrowed(Config.fromfile(HTC_CONFIG).model.to_dict())
    del settings["type"], settings["data_preprocessor"]
    settings["neck"]["out_channels"] = 16
    settings["backbone"] |= {"init_cfg": None, "frozen_stages": 0, "norm_cfg": {"type": "BN", "requires_grad": False}}
    # Void is left out of the mean, where mmdet divides by all pixels.
    settings["roi_head"]["semantic_head"]["loss_seg"]["avg_non_ignore"] = True
    train = settings["train_cfg"]
    # A crowd takes its anchors and proposals out; anchors may cross the border.
    for stage in (train["rpn"], *train["rcnn"]):
        stage["assigner"]["ignore_iof_thr"] = 0.5
    for stage in train["rcnn"]:  # a box far from all truth is no positive for being the nearest
        stage["assigner"]["match_low_quality"] = False
    train["rpn"]["allowed_border"] = -1
    train["rpn"]["sampler"]["num"] = 256
    train["rpn_proposal"] |= {"nms_pre": 48, "max_per_img": 24}
    return HybridTaskCascade(**ConfigDict(settings))


@pytest.fixture
def resnet_htc(build, network_settings):
    backbone = network_settings["lwl_htc"]["backbone"] | {"name": "resnet50"}
    widths = {"box_fc_channels": 32, "mask_convs": 4, "semantic_convs": 4, "anchor_scale": 8.0}
    semantics = {"semantic_loss_weight": 0.2, "semantic_loss_on": "grid"}
    return partial(build, "lwl_htc", backbone=backbone, **semantics, **widths)


def test_with_everything_off_the_losses_are_those_of_mmdets_config(resnet_htc, dataset):
    ours, stock = resnet_htc(), mmdets_htc()
    stock.load_state_dict(ours.state_dict())
    losses = []
    for network in (ours, stock):
        network.train()
        inputs, samples = batch(dataset, ours)
        torch.manual_seed(0)  # the samplers of proposals draw from it
        losses.append(network.parse_losses(network.loss(inputs, samples))[1])
    assert losses[0].keys() == losses[1].keys()
    assert len(losses[0]) > 12
    for name, expected in losses[1].items():
        torch.testing.assert_close(losses[0][name], expected, rtol=1e-5, atol=1e-6, msg=name)


@torch.inference_mode()
def test_with_stage_averaging_off_boxes_and_masks_are_those_of_mmdets_config(resnet_htc):
    ours, stock = resnet_htc(average_mask_stages=False), mmdets_htc()
    stock.load_state_dict(ours.state_dict())
    stock.eval()
    got = predict_image(photo(), [ours], [1.0], **SETTINGS)
    images, sample = _network_input(photo(), ours)
    features = stock.extract_feat(images)
    proposals = ours.rpn_head.predict(ours.extract_feat(images), [sample], rescale=False)
    (found,) = stock.roi_head.predict_bbox(
        features,
        [sample.metainfo],
        proposals,
        rcnn_test_cfg=MMDET_TEST_CFG,
        rescale=False,
        semantic_feat=stock.roi_head.semantic_head(features)[1],
    )
    assert len(got.scores) == len(found.scores) > 3
    np.testing.assert_allclose(got.boxes_xyxy, found.bboxes.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.scores, found.scores.numpy(), rtol=1e-5)
    # As mmdet 3's predict_mask: of all stages' masks the last one's alone.
    embedding = stock.roi_head.semantic_head(features)[1]
    logits = stock.roi_head._mask_forward(
        2, features, bbox2roi([found.bboxes]), semantic_feat=embedding, training=True
    )["mask_preds"]
    expected = logits.sigmoid()[range(len(logits)), found.labels]
    np.testing.assert_allclose(got.mask_probs, expected.numpy(), atol=1e-5)


def test_htcs_own_branch_cannot_fuse_to_p6(build):
    with pytest.raises(
        ModelError, match=r"semantic_level is 4; expected one of \[0, 1, 2, 3\] .*deformable_semantic_head"
    ):
        build("lwl_htc", semantic_level=4)
