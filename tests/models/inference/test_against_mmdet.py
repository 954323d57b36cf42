"""Both two-stage networks against mmdet's own heads, and its own HTC, on the same weights and boxes."""

from functools import partial
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.models.detectors import HybridTaskCascade
from mmdet.models.test_time_augs import merge_aug_masks
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config, ConfigDict
from torch.nn import functional as F

from antvisionps.models.blocks.resizing import resize_photo
from antvisionps.models.inference.views import _network_input, predict_image
from tests.models.conftest import NETWORK, PREDICTION, batch_of, build, losses_of, photo

ENDS = ("e_ups", "lwl_htc")
MMDET_TEST_CFG = ConfigDict(
    score_thr=0.3, nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=20, mask_thr_binary=0.5
)


@pytest.fixture(scope="module")
def networks():
    return {end: build(end, seed=10, sharp=True).eval() for end in ENDS}


@torch.inference_mode()
@pytest.mark.parametrize("hw", [(64, 80), (97, 130)])
@pytest.mark.parametrize("end", ENDS)
def test_boxes_scores_and_classes_are_mmdets(networks, end, hw):
    network, picture = networks[end], photo(hw)
    prediction = predict_image(picture, [network], [1.0], PREDICTION)
    got, input_hw = prediction.instances, prediction.input_hw
    images, sample = _network_input(resize_photo(picture, input_hw), network)
    features = network.extract_feat(images)
    proposals = network.rpn_head.predict(features, [sample], rescale=False)
    extra = {"semantic_feat": network.roi_head.semantic_head(features)[1]} if end == "lwl_htc" else {}
    (expected,) = network.roi_head.predict_bbox(
        features, [sample.metainfo], proposals, rcnn_test_cfg=MMDET_TEST_CFG, rescale=False, **extra
    )
    scale = np.array([hw[1] / input_hw[1], hw[0] / input_hw[0]] * 2)
    assert len(got.scores) == len(expected.scores) > 3
    np.testing.assert_allclose(got.boxes_xyxy, expected.bboxes.numpy() * scale, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got.scores, expected.scores.numpy(), rtol=1e-5)
    assert got.class_indices.tolist() == expected.labels.tolist()


@torch.inference_mode()
@pytest.mark.parametrize(("end", "average"), [("e_ups", False), ("lwl_htc", False), ("lwl_htc", True)])
def test_masks_are_mmdets_and_those_of_lwl_htc_the_last_stages_or_the_mean(networks, monkeypatch, end, average):
    network = networks[end]
    monkeypatch.setattr(network, "average_mask_stages", average, raising=False)
    got = predict_image(photo(), [network], [1.0], PREDICTION).instances
    features = network.extract_feat(_network_input(photo(), network)[0])
    rois = bbox2roi([torch.from_numpy(got.boxes_xyxy)])
    if end == "e_ups":
        merged = network.roi_head._mask_forward(features, rois)["mask_preds"].sigmoid()
    else:
        how = {"semantic_feat": network.roi_head.semantic_head(features)[1], "training": True}
        # mmdet's training pass of stage k runs all mask heads up to k: the slow way to every stage's masks.
        stages = [network.roi_head._mask_forward(k, features, rois, **how)["mask_preds"].sigmoid() for k in range(3)]
        assert not torch.allclose(stages[0], stages[2], atol=1e-3)
        # As mmdet 3's predict_mask: of all stages' masks the last one's alone.
        merged = merge_aug_masks(stages if average else stages[-1:], {"flip": False})
    np.testing.assert_allclose(got.mask_probs, merged[range(len(merged)), got.class_indices].numpy(), atol=1e-5)
    assert got.mask_probs.std() > 0.01


def test_htcs_branch_learns_from_every_pixel_of_the_photo_or_from_one_a_cell(dataset):
    for loss_on in ("photo", "grid"):
        network = build("lwl_htc", semantic_loss_on=loss_on, semantic_loss_weight=0.5).eval()
        batch = batch_of(network, dataset, flip=True)
        logits = network.extract(batch["inputs"]).semantic_logits
        truth = torch.stack([sample.gt_sem_seg.sem_seg[0] for sample in batch["data_samples"]]).long()
        if loss_on == "photo":
            logits = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)
        stride = truth.shape[-1] // logits.shape[-1]
        expected = 0.5 * F.cross_entropy(logits, truth[:, ::stride, ::stride], ignore_index=255)
        torch.testing.assert_close(losses_of(network, batch)["loss_semantic_seg"], expected)


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


resnet_htc = partial(
    build,
    "lwl_htc",
    sharp=True,
    backbone=NETWORK["backbone"] | {"name": "resnet50"},
    box_fc_channels=32,
    mask_convs=4,
    semantic_convs=4,
    anchor_scale=8.0,
    semantic_loss_weight=0.2,
    semantic_loss_on="grid",
)
"""LWL-HTC with everything off, in the sizes of `mmdets_htc`."""


def test_with_everything_off_the_losses_are_those_of_mmdets_config(dataset):
    ours, stock = resnet_htc(), mmdets_htc()
    stock.load_state_dict(ours.state_dict())
    batch = batch_of(ours, dataset, flip=True, photometric=0.1)
    got, expected = losses_of(ours, batch), losses_of(stock, batch)
    assert len(expected) > 12
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
