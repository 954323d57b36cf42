from __future__ import annotations

import pytest
import torch
from antvisionps.models.blocks.semantic_head import DeformableSemanticHead, upsampled_cross_entropy
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


def head(**changes) -> DeformableSemanticHead:
    torch.manual_seed(0)
    made = DeformableSemanticHead(
        **{
            "in_channels": 16,
            "hidden_channels": (16, 8, 8),
            "num_classes": 5,
            "loss_weight": 0.2,
            "roi_loss_weight": 0.0,
        }
        | changes
    )
    made.init_weights()
    return made


def pyramid(channels: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, 32 // s, 48 // s, generator=generator) for s in (1, 2, 4, 8, 16)]


def test_fresh_offsets_are_zero_so_the_head_starts_as_plain_convolutions():
    made, levels = head(), pyramid()
    outputs = []
    for level in levels[:4]:
        for conv in made.subnet:
            level = F.relu(F.conv2d(level, conv.weight, padding=1))
        outputs.append(F.interpolate(level, size=(32, 48), mode="bilinear", align_corners=False))
    expected = F.conv2d(torch.cat(outputs, 1), made.classifier.weight, made.classifier.bias)
    torch.testing.assert_close(made(levels), expected)


def test_moved_offsets_deform_as_torchvision_does():
    made, levels = head(hidden_channels=(8,)), pyramid()
    conv = made.subnet[0]
    torch.nn.init.normal_(conv.conv_offset.weight, std=0.1)
    outputs = []
    for level in levels[:4]:
        deformed = F.relu(deform_conv2d(level, conv.conv_offset(level), conv.weight, padding=1))
        outputs.append(F.interpolate(deformed, size=(32, 48), mode="bilinear", align_corners=False))
    expected = F.conv2d(torch.cat(outputs, 1), made.classifier.weight, made.classifier.bias)
    torch.testing.assert_close(made(levels), expected)


def test_upsnets_size_has_one_subnet_for_all_levels():
    made = head(in_channels=256, hidden_channels=(256, 128, 128), num_classes=133)
    convolutions = 9 * (256 * 256 + 256 * 128 + 128 * 128)
    offsets = sum(9 * width * 18 + 18 for width in (256, 256, 128))
    classifier = 4 * 128 * 133 + 133
    assert sum(p.numel() for p in made.parameters()) == convolutions + offsets + classifier


def test_loss_is_cross_entropy_of_resized_logits_without_void():
    logits = torch.randn(2, 5, 8, 12, generator=torch.Generator().manual_seed(2))
    truth = torch.randint(0, 5, (2, 32, 48), generator=torch.Generator().manual_seed(3))
    truth[:, :10] = 255
    resized = F.interpolate(logits, size=(32, 48), mode="bilinear", align_corners=False)
    expected = F.cross_entropy(resized, truth, ignore_index=255)
    torch.testing.assert_close(upsampled_cross_entropy(logits, truth), expected)


def test_a_batch_of_nothing_but_void_costs_nothing():
    logits = torch.randn(1, 5, 8, 12, requires_grad=True)
    loss = upsampled_cross_entropy(logits, torch.full((1, 32, 48), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("hw", [(32, 32), (64, 96)])
def test_logits_are_at_stride_four(hw):
    levels = [torch.zeros(1, 16, hw[0] // s, hw[1] // s) for s in (4, 8, 16, 32, 64)]
    assert head()(levels).shape == (1, 5, hw[0] // 4, hw[1] // 4)
