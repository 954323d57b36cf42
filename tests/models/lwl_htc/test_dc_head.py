from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from antvisionps.models.lwl_htc.dc_head import DeformableFusionHead

LEVELS = 5


def head(**changes) -> DeformableFusionHead:
    torch.manual_seed(0)
    settings = {"num_levels": LEVELS, "fusion_level": 1, "channels": 8, "num_classes": 5, "shared": False}
    made = DeformableFusionHead(**settings | {"loss_weight": 0.2, "loss_on": "photo"} | changes)
    made.init_weights()
    return made


def pyramid() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, 32 // s, 48 // s, generator=generator) for s in (1, 2, 4, 8, 16)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fusion_level", [0, 1, 2])
def test_it_is_the_figure_in_torchvisions_calls(shared, fusion_level):
    made = head(shared=shared, fusion_level=fusion_level).double()  # three deformable layers multiply rounding errors
    levels = [level.double() for level in pyramid()]
    for tower in made.towers:
        for conv in tower:
            torch.nn.init.normal_(conv.conv_offset.weight, std=0.1)
    target = levels[fusion_level].shape[-2:]
    fused = 0
    for index, x in enumerate(levels):
        for conv in made.towers[0 if shared else index]:
            x = F.relu(deform_conv2d(x, conv.conv_offset(x), conv.weight, padding=1))
        lateral = made.laterals[index]
        x = F.conv2d(x, lateral.weight, lateral.bias)
        fused = fused + F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    logits, feature = made(levels)
    torch.testing.assert_close(logits, F.conv2d(fused, made.conv_logits.weight, made.conv_logits.bias))
    embedding = made.conv_embedding
    torch.testing.assert_close(feature, F.relu(F.conv2d(fused, embedding.weight, embedding.bias)))


def test_sharing_leaves_one_set_of_deformable_convolutions():
    deformable = 3 * (9 * 8 * 8 + 9 * 8 * 18 + 18)
    rest = LEVELS * (8 * 8 + 8) + (8 * 8 + 8) + (8 * 5 + 5)
    assert sum(p.numel() for p in head(shared=True).parameters()) == deformable + rest
    assert sum(p.numel() for p in head(shared=False).parameters()) == LEVELS * deformable + rest


@pytest.mark.parametrize("loss_on", ["photo", "grid"])
def test_the_loss_leaves_void_out_and_nothing_but_void_costs_nothing(loss_on):
    made = head(loss_weight=0.5, loss_on=loss_on)
    logits = torch.randn(1, 5, 4, 6, requires_grad=True)
    truth = torch.randint(0, 5, (1, 1, 8, 12), generator=torch.Generator().manual_seed(2))
    truth[..., :4, :] = 255
    if loss_on == "grid":
        expected = 0.5 * F.cross_entropy(logits, truth[:, 0, ::2, ::2], ignore_index=255)
    else:
        upsampled = F.interpolate(logits, size=(8, 12), mode="bilinear", align_corners=False)
        expected = 0.5 * F.cross_entropy(upsampled, truth[:, 0], ignore_index=255)
    torch.testing.assert_close(made.loss(logits, truth), expected)
    nothing = made.loss(logits, torch.full((1, 1, 8, 12), 255))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()
