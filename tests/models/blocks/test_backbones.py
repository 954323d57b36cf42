from __future__ import annotations

import pytest
import timm
import torch
from mmdet.registry import MODELS

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.backbones import (
    BACKBONES,
    EfficientNetLite0,
    describe_backbone,
    load_efficientnet_weights,
    packaged_efficientnet_weights,
)


def describe(name: str, **changes):
    return describe_backbone(
        **{"name": name, "weights": None, "frozen_stages": 0, "frozen_norm": True, "deformable": False} | changes
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_the_promised_channels_at_strides_4_to_32(name):
    spec = describe(name)
    backbone = MODELS.build(spec.config)
    backbone.eval()
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(spec.channels, (4, 8, 16, 32), strict=True)
    ]


def test_packaged_weights_pair_with_the_modules_of_the_same_kind():
    # The file is paired by position; its names tell independently whether that is right.
    theirs = [key.rpartition(".") for key in torch.load(packaged_efficientnet_weights(), weights_only=True)]
    ours = [key.rpartition(".") for key in timm.create_model("tf_efficientnet_lite0").state_dict()]
    convolutions = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_conv_stem": "conv_stem"}
    convolutions |= {"_conv_head": "conv_head", "_fc": "classifier"}
    for (their_module, _, their_tensor), (our_module, _, our_tensor) in zip(theirs, ours, strict=True):
        their_kind, our_kind = their_module.split(".")[-1], our_module.split(".")[-1]
        assert their_tensor == our_tensor
        if their_kind == "_project_conv":
            assert our_kind in ("conv_pwl", "conv_pw")
        elif their_kind.startswith("_bn"):
            assert our_kind.startswith("bn")
        else:
            assert our_kind == convolutions[their_kind]


def test_imagenet_weights_give_timms_features_with_that_file():
    backbone = EfficientNetLite0(weights="imagenet", frozen_stages=0, frozen_norm=True).eval()
    backbone.init_weights()
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(packaged_efficientnet_weights(), weights_only=True)
    classifier.load_state_dict(dict(zip(classifier.state_dict(), source.values(), strict=True)))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, expected = classifier.forward_intermediates(images, indices=[1, 2, 3, 4])
        got = backbone(images)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_stages_and_norms_do_not_learn():
    backbone = EfficientNetLite0(weights=None, frozen_stages=2, frozen_norm=True).train()
    learning = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert not any(
        name.startswith(("network.conv_stem", "network.blocks.0.", "network.blocks.2.")) for name in learning
    )
    assert any(name.startswith("network.blocks.3.") for name in learning)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) and m.training for m in backbone.modules())


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match=r"unknown backbone vgg.*efficientnet_lite0"):
        describe("vgg")


def test_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.pth: no such file"):
        describe("efficientnet_lite0", weights=str(tmp_path / "nowhere.pth"))
    network = EfficientNetLite0(weights=None, frozen_stages=0, frozen_norm=True).network
    foreign = tmp_path / "resnet.pth"
    torch.save(timm.create_model("resnet18").state_dict(), foreign)
    with pytest.raises(ModelError, match=r"resnet\.pth: expected the 296 tensors"):
        load_efficientnet_weights(network, foreign)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(foreign.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"broken\.pth: cannot be read"):
        load_efficientnet_weights(network, broken)
