"""Backbones against timm's and mmdet's own networks: features, weights, and what is frozen."""

import re

import pytest
import timm
import torch
from mmdet.registry import MODELS

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.backbones import (
    BACKBONES,
    EfficientNetLite0,
    describe_backbone,
    packaged_efficientnet_weights,
)
from antvisionps.models.blocks.norms import PYRAMID_SCALE, norm_layer, start_at_scale
from antvisionps.models.blocks.whole_batch import share_batch
from tests.models.conftest import NETWORK

SETTINGS = NETWORK["backbone"]


def build(name: str, **changes):
    spec = describe_backbone(**SETTINGS | {"name": name} | changes)
    return spec, MODELS.build(spec.config)


def images() -> torch.Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def state_of(model: torch.nn.Module, path) -> str:
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", [*BACKBONES, "timm:convnext_atto"])
def test_features_have_the_promised_channels_at_strides_4_to_32(name):
    with torch.device("meta"):
        spec, backbone = build(name)
        backbone.eval()
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(spec.channels, (4, 8, 16, 32), strict=True)
    ]


def test_packaged_weights_pair_with_the_modules_of_the_same_kind():
    # The file is paired by position; its names tell independently whether that is right.
    kinds = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl?"}
    kinds |= {"_conv_stem": "conv_stem", "_conv_head": "conv_head", "_fc": "classifier", "_bn": "bn"}
    theirs = torch.load(packaged_efficientnet_weights(), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    for their_name, our_name in zip(theirs, ours, strict=True):
        *_, kind, tensor = their_name.split(".")
        assert re.search(rf"(^|\.){kinds[kind.rstrip('012')]}\d?\.{tensor}$", our_name), (their_name, our_name)


def test_imagenet_weights_give_timms_features_with_that_file():
    backbone = EfficientNetLite0(weights="imagenet", frozen_stages=0, frozen_norm=True).eval()
    backbone.init_weights()
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(packaged_efficientnet_weights(), weights_only=True)
    classifier.load_state_dict(dict(zip(classifier.state_dict(), source.values(), strict=True)))
    with torch.inference_mode():
        _, expected = classifier.forward_intermediates(images(), indices=[1, 2, 3, 4])
        torch.testing.assert_close(list(backbone(images())), expected)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("timm:convnext_atto", {}),
        ("timm:regnetx_002", {}),
        ("timm:legacy_seresnet18", {}),
        ("resnet50", {}),
        ("resnet50", {"deformable": True}),  # starts as the plain one
    ],
)
def test_features_are_timms_with_the_same_weights(name, changes, tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model(name.removeprefix("timm:")).eval()
    for parameter in classifier.parameters():
        if parameter.ndim == 1:  # timm's last norm of a block starts at zero
            torch.nn.init.uniform_(parameter, 0.1, 0.9)
    spec, backbone = build(name, weights=state_of(classifier, tmp_path / "weights.pth"), **changes)
    backbone.init_weights()
    backbone.eval()
    _, intermediates = classifier.forward_intermediates(images())
    torch.testing.assert_close(list(backbone(images())), intermediates[-4:], rtol=1e-4, atol=1e-4)
    assert spec.channels == tuple(feature.shape[1] for feature in intermediates[-4:])
    kinds = {n[:6] for n, module in backbone.named_modules() if type(module).__name__ == "DeformConv2dPack"}
    assert kinds == ({"layer2", "layer3", "layer4"} if changes else set())


def test_frozen_stages_and_norms_do_not_learn():
    backbone = EfficientNetLite0(weights=None, frozen_stages=2, frozen_norm=True).train()
    learning = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert not [n for n in learning if n.startswith(("network.conv_stem", "network.blocks.0.", "network.blocks.2."))]
    assert [n for n in learning if n.startswith("network.blocks.3.")]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) and m.training for m in backbone.modules())


def test_senet_154_learns_all_but_its_stem_and_norms():
    with torch.device("meta"):
        _, backbone = build("senet154")
    backbone.train()
    still = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    norms = {name for name, module in backbone.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert {name for name in still if name.rpartition(".")[0] not in norms} == {
        f"network.layer0.conv{k}.weight" for k in (1, 2, 3)
    }
    assert not any(module.training for name, module in backbone.named_modules() if name in norms)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(113.0e6, rel=2e-3)


@pytest.mark.parametrize(("frozen_stages", "learning"), [(-1, "layer0"), (0, "layer1"), (2, "layer3"), (4, None)])
def test_stages_of_a_timm_model_freeze_from_the_stem_on(frozen_stages, learning):
    _, backbone = build("timm:seresnext26d_32x4d", frozen_stages=frozen_stages, frozen_norm=False)
    children = [
        name for name, child in backbone.network.named_children() if any(p.requires_grad for p in child.parameters())
    ]
    first = {"layer0": "conv1", None: None}.get(learning, learning)
    assert (children[0] if children else None) == first


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet50", r"weights of another architecture: layer1\.0\.conv\S+ "),
        ("timm:resnet26", r"weights of another architecture: layer1\.0\.conv\S+ "),
        ("efficientnet_lite0", r"expected the 296 tensors"),
    ],
)
def test_foreign_and_broken_weights_are_refused(name, complaint, tmp_path):
    file = tmp_path / "resnet18.pth"
    _, backbone = build(name, weights=state_of(timm.create_model("resnet18"), file))
    with pytest.raises(ModelError, match=rf"resnet18\.pth: {complaint}"):
        backbone.init_weights()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"resnet18\.pth: cannot be read"):
        backbone.init_weights()


@pytest.mark.parametrize("name", ["timm:legacy_seresnet18", "resnet50"])
def test_imagenet_weights_that_cannot_be_fetched_are_told_with_the_remedy(name, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    for loader in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(timm.models._builder, loader, offline)
    monkeypatch.setattr("antvisionps.models.blocks.state_dicts.CheckpointLoader.load_checkpoint", offline)
    _, backbone = build(name, weights="imagenet")
    with pytest.raises(ModelError, match=r"no route to host.*without a network, .*path"):
        backbone.init_weights()


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("vgg", {}, r"unknown backbone vgg; expected one of .*senet154, or timm:NAME"),
        ("timm:no_such_model", {}, r"timm has no feature extractor no_such_model"),
        ("timm:vit_tiny_patch16_224", {}, r"strides \[16, 16, 16\]; expected \(4, 8, 16, 32\)"),
        ("resnet18", {"deformable": True}, r"resnet18 has no deformable variant; resnet50 and resnet101 have"),
        ("senet154", {"deformable": True}, r"senet154 has no deformable variant"),
        ("senet154", {"weights": "nowhere.pth"}, r"nowhere\.pth: no such file"),
    ],
)
def test_wrong_backbones_are_refused(name, changes, complaint):
    with pytest.raises(ModelError, match=complaint):
        build(name, **changes)


def test_a_timm_model_that_hides_its_stages_can_be_trained_whole_only():
    with pytest.raises(ModelError, match=r"does not tell its stages apart; set frozen_stages to -1"):
        build("timm:mobilenetv3_small_050")
    _, backbone = build("timm:mobilenetv3_small_050", frozen_stages=-1)
    assert all(p.requires_grad for name, p in backbone.named_parameters() if "bn" not in name)


def test_norms_stay_frozen_where_several_gpus_share_a_batch():
    frozen = EfficientNetLite0(weights=None, frozen_stages=0, frozen_norm=True)
    backbone = share_batch(frozen, torch.device("cuda")).train()
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_synchronised_norms_of_a_pyramid_start_at_its_scale():
    norm = share_batch(norm_layer("syncbn", 8), torch.device("cuda"))
    start_at_scale(norm)
    assert norm.weight.eq(PYRAMID_SCALE).all()
