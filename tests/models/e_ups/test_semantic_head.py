from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from antvisionps.models.blocks.semantic_loss import upsampled_cross_entropy
from antvisionps.models.e_ups.semantic_head import DeformableSemanticHead


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


@pytest.mark.parametrize("moved", [False, True])
def test_it_is_the_papers_composition_in_torchvisions_calls(moved):
    made, levels = head(hidden_channels=(8,) if moved else (16, 8, 8)), pyramid()
    for conv in made.subnet if moved else ():
        torch.nn.init.normal_(conv.conv_offset.weight, std=0.1)
    outputs = []
    for level in levels[:4]:
        for conv in made.subnet:  # fresh offsets are zero, so that the head starts as plain convolutions
            plain = F.conv2d(level, conv.weight, padding=1)
            deformed = deform_conv2d(level, conv.conv_offset(level), conv.weight, padding=1)
            level = F.relu(deformed if moved else plain)
        outputs.append(F.interpolate(level, size=(32, 48), mode="bilinear", align_corners=False))
    expected = F.conv2d(torch.cat(outputs, 1), made.classifier.weight, made.classifier.bias)
    torch.testing.assert_close(made(levels), expected)


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
