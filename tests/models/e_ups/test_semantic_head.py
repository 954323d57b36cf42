import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from antvisionps.models.e_ups.semantic_head import DeformableSemanticHead
from tests.models.conftest import pyramid


def head(hidden_channels: tuple[int, ...]) -> DeformableSemanticHead:
    torch.manual_seed(0)
    sizes = {"in_channels": 16, "hidden_channels": hidden_channels, "num_classes": 5}
    made = DeformableSemanticHead(**sizes, norm=None, loss_weight=0.2, roi_loss_weight=0.0)
    made.init_weights()
    return made


@pytest.mark.parametrize("moved", [False, True])
def test_it_is_the_papers_composition_in_torchvisions_calls(moved):
    made, levels = head((8,) if moved else (16, 8, 8)), pyramid(16)
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
