"""HRNet against timm's, the decoder against formulas, and the end from training to a cache that fusion reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from antvisionps.core.errors import ModelError
from antvisionps.models.hrnet_aspp.hrnet import describe_hrnet
from antvisionps.models.hrnet_aspp.network import AsppDecoder, build_hrnet_aspp, hard_pixel_cross_entropy
from tests.models.conftest import NETWORKS, batch_of, losses_of
from tests.models.conftest import build as build_end

PUBLISHED = {"modules": (1, 4, 3), "blocks": 4, "weights": None, "frozen_norm": False}
SMALL = NETWORKS["hrnet_aspp"]["backbone"]
PAPER = {"aspp_rates": (6, 12, 18), "aspp_channels": 256, "stage1_channels": 48, "hard_pixel_frac": None}


def build(**changes):
    return build_end("hrnet_aspp", seed=3, **changes)


def parameters_of(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("width", [18, 48])
def test_the_backbone_has_as_many_parameters_as_timms_without_its_heads(width):
    heads = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    with torch.device("meta"):
        reference = timm.create_model(f"hrnet_w{width}", pretrained=False)
        ours = build_hrnet_aspp(num_things=1, num_classes=2, backbone=PUBLISHED | {"width": width}, **PAPER).backbone
    expected = sum(p.numel() for name, p in reference.named_parameters() if not name.startswith(heads))
    assert parameters_of(ours) == expected


@torch.inference_mode()
def test_the_branches_are_timms_on_the_same_weights(tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model("hrnet_w18", pretrained=False).eval()
    file = tmp_path / "hrnet_w18.pth"
    torch.save(reference.state_dict(), file)
    network = build(backbone=PUBLISHED | {"width": 18, "weights": str(file)}).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = reference.stages(reference.act2(reference.bn2(reference.conv2(_first_conv(reference, images)))))
    stage1, *branches = network.backbone(images)
    assert stage1.shape == (1, 256, 16, 24)
    assert len(branches) == len(expected) == 4
    for index, (got, wanted) in enumerate(zip(branches, expected, strict=True)):
        assert got.shape == (1, 18 * 2**index, 16 // 2**index, 24 // 2**index)
        torch.testing.assert_close(got, wanted)


def _first_conv(network, images):
    return network.act1(network.bn1(network.conv1(images)))


@torch.inference_mode()
def test_the_decoder_is_the_figures_composition():
    torch.manual_seed(1)
    decoder = AsppDecoder(branch_channels=(2, 4, 8, 16), rates=(2,), aspp_channels=6, stage1_channels=5, num_classes=3)
    decoder.init_weights()
    decoder.eval()
    stage1 = torch.randn(1, 256, 16, 24)
    branches = [torch.randn(1, 2 * 2**k, 16 // 2**k, 24 // 2**k) for k in range(4)]

    def stretch(x, factor):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    joined = torch.cat([F.avg_pool2d(branches[0], 2), *(stretch(b, 2.0**k) for k, b in enumerate(branches[1:]))], dim=1)
    doubled = stretch(decoder.aspp(joined), 2)
    expected = decoder.classifier(decoder.join(torch.cat([doubled, decoder.reduce_stage1(stage1)], dim=1)))
    torch.testing.assert_close(decoder((stage1, *branches)), expected)


def test_the_branches_of_aspp_are_dilated_by_their_rates():
    one_by_one, *dilated, _pooled = build(aspp_rates=(6, 12, 18)).decoder.aspp.convs
    assert (one_by_one[0].kernel_size, [branch[0].kernel_size for branch in dilated]) == ((1, 1), [(3, 3)] * 3)
    assert [branch[0].dilation for branch in dilated] == [(6, 6), (12, 12), (18, 18)]


def slow_hard_pixel_loss(logits, truth, frac):
    losses = []
    resized = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False).double()
    for image, y, x in np.ndindex(*truth.shape):
        if truth[image, y, x] != 255:
            scores = resized[image, :, y, x].tolist()
            losses.append(math.log(sum(map(math.exp, scores))) - scores[truth[image, y, x]])
    hardest = sorted(losses, reverse=True)[: math.ceil(frac * len(losses))]
    return math.fsum(hardest) / len(hardest)


@pytest.mark.parametrize("frac", [None, 1.0, 0.3, 0.001])
def test_the_loss_averages_the_hardest_pixels(frac):
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 8, 10))
    truth[0, :3] = 255
    got = hard_pixel_cross_entropy(logits, truth, hard_pixel_frac=frac)
    assert float(got) == pytest.approx(slow_hard_pixel_loss(logits, truth, 1.0 if frac is None else frac), rel=1e-5)


@pytest.mark.parametrize("frac", [None, 0.5])
def test_nothing_but_void_costs_nothing(frac):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = hard_pixel_cross_entropy(logits, torch.full((1, 8, 8), 255), hard_pixel_frac=frac)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_it_learns_a_batch(dataset):
    network = build(hard_pixel_frac=None)
    batch = batch_of(network, dataset, (0, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        losses.append(losses_of(network, batch)["loss"].item())
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(4), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 20}, "no width 20; expected one of 18, 30"),
        ({"modules": (1, 4)}, "expected three positive numbers"),
        ({"modules": (1, 0, 3)}, "expected three positive numbers"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: no such file"),
    ],
)
def test_an_unknown_backbone_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        describe_hrnet(**(SMALL | changes))


@pytest.mark.parametrize("rates", [(), (0, 6), (12, 6), (6, 6)])
def test_bad_rates_are_refused(rates):
    with pytest.raises(ModelError, match="aspp_rates are"):
        build(aspp_rates=rates)


@pytest.mark.parametrize(
    ("of_file", "ours", "message"),
    [
        ({"width": 30}, {}, r"transition1\.0\.0\.weight has shape \(30, .*, expected \(18, "),
        ({"modules": (1, 1, 2)}, {}, r"stage4\.1\..* is not part of this network"),
        ({"blocks": 2}, {}, r"layer1\.1\..* is not part of this network"),
        ({}, {"blocks": 2}, r"layer1\.1\..* is missing"),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path, of_file, ours, message):
    file = tmp_path / "other.pth"
    torch.save(build(backbone=SMALL | of_file).backbone.state_dict(), file)
    with pytest.raises(ModelError, match=f"weights of another architecture: {message}"):
        build(backbone=SMALL | ours | {"weights": str(file)})
