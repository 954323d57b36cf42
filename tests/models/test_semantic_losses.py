"""Losses of semantic heads against a walk over the pixels."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from antvisionps.models.blocks.semantic_loss import upsampled_cross_entropy
from antvisionps.models.hrnet_aspp.network import hard_pixel_cross_entropy
from antvisionps.models.lwl_htc.dc_head import DeformableFusionHead


def literal(logits, truth, frac=1.0):
    losses = []
    resized = F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False).double()
    for image, y, x in np.ndindex(*truth.shape):
        if truth[image, y, x] != 255:
            scores = resized[image, :, y, x].tolist()
            losses.append(math.log(sum(map(math.exp, scores))) - scores[truth[image, y, x]])
    hardest = sorted(losses, reverse=True)[: math.ceil(frac * len(losses))]
    return math.fsum(hardest) / len(hardest)


def of_dc_head(loss_on):
    sizes = {"num_levels": 1, "fusion_level": 0, "channels": 2, "num_classes": 3, "norm": None, "shared": True}
    head = DeformableFusionHead(**sizes, loss_weight=0.5, loss_on=loss_on)
    return lambda logits, truth: head.loss(logits, truth[:, None])


LOSSES = {
    "upsampled": (upsampled_cross_entropy, literal),
    "DC head, photo": (of_dc_head("photo"), lambda logits, truth: 0.5 * literal(logits, truth)),
    "DC head, grid": (of_dc_head("grid"), lambda logits, truth: 0.5 * literal(logits, truth[:, ::2, ::2])),
} | {
    f"hardest {frac}": (partial(hard_pixel_cross_entropy, hard_pixel_frac=frac), partial(literal, frac=frac or 1.0))
    for frac in (None, 1.0, 0.3, 0.001)
}


@pytest.mark.parametrize(("loss", "expected"), LOSSES.values(), ids=LOSSES)
def test_a_loss_is_that_of_its_formula_and_nothing_but_void_costs_nothing(loss, expected):
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randint(0, 3, (2, 8, 10))
    truth[0, :3] = 255
    assert loss(logits, truth).item() == pytest.approx(expected(logits.detach(), truth), rel=1e-5)
    nothing = loss(logits, torch.full_like(truth, 255))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()
