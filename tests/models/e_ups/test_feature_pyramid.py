"""Image context and Libra's balanced pyramid against mmdet's FPN, BFP and mmcv's non-local block."""

import pytest
import torch
from mmcv.cnn.bricks import NonLocal2d
from mmdet.models.necks import BFP, FPN
from mmdet.registry import MODELS
from torch.nn import functional as F

from antvisionps.models.blocks.backbones import describe_backbone
from antvisionps.models.blocks.two_stage import FeaturePyramid
from antvisionps.models.e_ups.feature_pyramid import ContextFPN, FusedNonLocal, feature_pyramid

CHANNELS = 12
SPEC = describe_backbone(name="efficientnet_lite0", weights=None, frozen_stages=0, frozen_norm=True, deformable=False)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, 64 // s, 96 // s, generator=generator)
        for c, s in zip(SPEC.channels, (4, 8, 16, 32), strict=True)
    ]


def neck(norm: str | None = None, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    made = MODELS.build(feature_pyramid(SPEC, channels=CHANNELS, norm=norm, **settings))
    made.init_weights()
    return made


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_without_extras_the_pyramid_is_mmdets_fpn():
    assert type(neck(image_context=False, balanced_level=None)) is FeaturePyramid


@pytest.mark.parametrize("level", [0, 2, 4])
def test_the_balanced_pyramid_is_mmdets(level):
    ours = neck(image_context=False, balanced_level=level)
    randomise(ours)
    fpn, bfp = ours
    theirs = BFP(CHANNELS, 5, refine_level=level, refine_type="non_local")
    theirs.load_state_dict(bfp.state_dict(), strict=True)
    torch.testing.assert_close(ours(features()), theirs(fpn(features())), **CLOSE)


def test_the_fused_non_local_block_has_mmcvs_output_and_gradients():
    ours = FusedNonLocal(CHANNELS, reduction=1, use_scale=False)
    theirs = NonLocal2d(CHANNELS, reduction=1, use_scale=False)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, CHANNELS, 6, 5, generator=torch.Generator().manual_seed(1))
    gradients = []
    for block in (ours, theirs):
        leaf = x.clone().requires_grad_()
        output = block(leaf)
        output.square().sum().backward()
        gradients.append([output, leaf.grad, *(p.grad for p in block.parameters())])
    torch.testing.assert_close(*gradients, **CLOSE)


def test_image_context_adds_the_projected_mean_of_the_last_feature_to_the_top_lateral():
    ours = neck(image_context=True, balanced_level=None)
    assert isinstance(ours, ContextFPN)
    randomise(ours)
    top = ours.lateral_convs[-1]
    inputs = features()
    context = F.linear(inputs[-1].flatten(2).mean(dim=2), top.project.weight.flatten(1), top.project.bias)
    # The same FPN, with the context as a bias of the top lateral: one image at a time, for the bias is the image's own.
    for index in range(2):
        plain = FPN(list(SPEC.channels), CHANNELS, 5)
        state = {key.replace("3.lateral.", "3."): value for key, value in ours.state_dict().items()}
        plain.load_state_dict({key: value for key, value in state.items() if "project" not in key}, strict=True)
        plain.lateral_convs[-1].conv.bias.data += context[index]
        expected = plain([x[index : index + 1] for x in inputs])
        torch.testing.assert_close(tuple(got[index : index + 1] for got in ours(inputs)), expected, **CLOSE)
