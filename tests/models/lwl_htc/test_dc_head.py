import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from antvisionps.models.lwl_htc.dc_head import DeformableFusionHead
from tests.models.conftest import pyramid

LEVELS = 5


def head(*, shared: bool, fusion_level: int = 1) -> DeformableFusionHead:
    torch.manual_seed(0)
    settings = {"num_levels": LEVELS, "channels": 8, "num_classes": 5, "loss_weight": 0.2, "loss_on": "photo"}
    made = DeformableFusionHead(**settings, norm=None, shared=shared, fusion_level=fusion_level)
    made.init_weights()
    return made


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fusion_level", [0, 1, 2])
def test_it_is_the_figure_in_torchvisions_calls(shared, fusion_level):
    made = head(shared=shared, fusion_level=fusion_level).double()  # three deformable layers multiply rounding errors
    levels = [level.double() for level in pyramid(8)]
    for tower in made.towers:
        for conv in tower:
            torch.nn.init.normal_(conv.conv_offset.weight, std=0.1)
    target = levels[fusion_level].shape[-2:]
    fused = 0
    for index, x in enumerate(levels):
        for conv in made.towers[0 if shared else index]:
            x = F.relu(deform_conv2d(x, conv.conv_offset(x), conv.weight, padding=1))
        x = made.laterals[index](x)
        fused = fused + F.interpolate(x, size=target, mode="bilinear", align_corners=False)
    fused = fused / LEVELS**0.5
    assert len(made.towers) == (1 if shared else LEVELS)
    logits, feature = made(levels)
    torch.testing.assert_close(logits, made.conv_logits(fused))
    torch.testing.assert_close(feature, F.relu(made.conv_embedding(fused)))
