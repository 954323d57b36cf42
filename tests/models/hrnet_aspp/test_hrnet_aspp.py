"""HRNet against timm's, the decoder against formulas, and the end from training to a cache that fusion reads."""

import math

import pytest
import timm
import torch
from torch.nn import functional as F

from antvisionps.core.errors import ModelError
from antvisionps.models.hrnet_aspp.network import AsppDecoder, build_hrnet_aspp
from tests.models.conftest import NETWORKS, batch_of, losses_of
from tests.models.conftest import build as build_end

PUBLISHED = {"modules": (1, 4, 3), "blocks": 4, "weights": None, "frozen_norm": False}
SMALL = NETWORKS["hrnet_aspp"]["backbone"]
PAPER = {"aspp_rates": (6, 12, 18), "aspp_channels": 256, "stage1_channels": 48, "hard_pixel_frac": None}


def build(**changes):
    return build_end("hrnet_aspp", seed=3, **changes)


@pytest.mark.parametrize("width", [18, 48])
def test_the_backbone_has_as_many_parameters_as_timms_without_its_heads(width):
    heads = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    with torch.device("meta"):
        reference = timm.create_model(f"hrnet_w{width}", pretrained=False)
        ours = build_hrnet_aspp(num_things=1, num_classes=2, backbone=PUBLISHED | {"width": width}, **PAPER).backbone
    expected = sum(p.numel() for name, p in reference.named_parameters() if not name.startswith(heads))
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected


@torch.inference_mode()
def test_the_branches_are_timms_on_the_same_weights(tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model("hrnet_w18", pretrained=False).eval()
    file = tmp_path / "hrnet_w18.pth"
    torch.save(reference.state_dict(), file)
    network = build(backbone=PUBLISHED | {"width": 18, "weights": str(file)}).eval()
    images = torch.randn(1, 3, 64, 96)
    stem = reference.act1(reference.bn1(reference.conv1(images)))
    expected = reference.stages(reference.act2(reference.bn2(reference.conv2(stem))))
    stage1, *branches = network.backbone(images)
    assert stage1.shape == (1, 256, 16, 24)
    torch.testing.assert_close(branches, expected)


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


def test_the_decoder_of_w48_has_the_parameters_of_its_formula():
    def conv_norm(before: int, after: int, kernel_size: int) -> int:
        return before * after * kernel_size**2 + 2 * after

    classes, channels = 133, 15 * 48
    with torch.device("meta"):
        network = build_hrnet_aspp(num_things=80, num_classes=classes, backbone=PUBLISHED | {"width": 48}, **PAPER)
    # 1x1, three 3x3 and the pooled image's 1x1; their 1x1; stage 1's 1x1; the 3x3; the 1x1 with bias.
    expected = 2 * conv_norm(channels, 256, 1) + 3 * conv_norm(channels, 256, 3) + conv_norm(5 * 256, 256, 1)
    expected += conv_norm(256, 48, 1) + conv_norm(256 + 48, 256, 3) + (256 + 1) * classes
    assert sum(parameter.numel() for parameter in network.decoder.parameters()) == expected


def test_the_branches_of_aspp_are_dilated_by_their_rates():
    one_by_one, *dilated, _pooled = build(aspp_rates=(6, 12, 18)).decoder.aspp.convs
    assert (one_by_one[0].kernel_size, [branch[0].kernel_size for branch in dilated]) == ((1, 1), [(3, 3)] * 3)
    assert [branch[0].dilation for branch in dilated] == [(6, 6), (12, 12), (18, 18)]


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
        ({"backbone": SMALL | {"weights": "nowhere.pth"}}, "nowhere.pth: no such file"),
        *[({"aspp_rates": rates}, "aspp_rates are") for rates in ((), (0, 6), (12, 6), (6, 6))],
    ],
)
def test_missing_weights_and_bad_rates_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        build(**changes)


def test_weights_of_another_architecture_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(build(backbone=SMALL | {"blocks": 2}).backbone.state_dict(), file)
    with pytest.raises(ModelError, match=r"of another architecture: layer1\.1\..* is not part of this network"):
        build(backbone=SMALL | {"weights": str(file)})
