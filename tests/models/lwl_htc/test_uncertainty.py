import math

import pytest
import torch

from antvisionps.models.lwl_htc.network import LOSS_NAMES
from antvisionps.models.lwl_htc.uncertainty import MAX_LOG_VARIANCE, UncertaintyWeighting
from tests.models.conftest import batch_of, build

LOSSES = {"loss_rpn_cls": 0.7, "s0.loss_bbox": 2.3, "loss_semantic_seg": 1.9, "s0.acc": 88.0}


def tensors(losses):
    return {name: torch.tensor(value) for name, value in losses.items()}


def total(weighted):
    return sum(value if torch.is_tensor(value) else sum(value) for name, value in weighted.items() if "loss" in name)


@pytest.mark.parametrize("balance", ["task", "term"])
def test_the_total_is_kendalls_formula(balance):
    names = tuple(name for name in LOSSES if "loss" in name)
    weighting = UncertaintyWeighting(balance=balance, loss_names=names)
    fresh = weighting(tensors(LOSSES))
    assert {name: fresh[name].item() for name in LOSSES} == pytest.approx(LOSSES)
    assert fresh["loss_uncertainty"].item() == 0
    values = {"instance": 0.4, "semantic": -1.1}
    values |= {"loss_rpn_cls": 0.3, "s0_loss_bbox": 0.9, "loss_semantic_seg": -0.5}
    with torch.no_grad():
        for key, parameter in weighting.log_variance.items():
            parameter.fill_(values[key])
    if balance == "task":
        expected = math.exp(-0.4) * (0.7 + 2.3) + 0.4 / 2 + math.exp(1.1) * 1.9 - 1.1 / 2
    else:
        expected = math.exp(-0.3) * 0.7 + math.exp(-0.9) * 2.3 + math.exp(0.5) * 1.9 + (0.3 + 0.9 - 0.5) / 2
    assert total(weighting(tensors(LOSSES))).item() == pytest.approx(expected)


@pytest.mark.parametrize("far", [50.0, -50.0])
def test_a_log_variance_is_clamped(far):
    weighting = UncertaintyWeighting(balance="task", loss_names=())
    with torch.no_grad():
        weighting.log_variance["semantic"].fill_(far)
    weighted = weighting(tensors(LOSSES))
    assert weighted["log_variance/semantic"].item() == math.copysign(MAX_LOG_VARIANCE, far)
    assert weighted["loss_semantic_seg"].item() == pytest.approx(math.exp(-math.copysign(MAX_LOG_VARIANCE, far)) * 1.9)


@pytest.mark.parametrize(("balance", "count"), [("task", 2), ("term", 12)])
def test_a_network_learns_its_weights_and_saves_them(balance, count, dataset):
    network = build("lwl_htc", uncertainty=balance).train()
    losses = network(**batch_of(network, dataset, (0, 0)), mode="loss")
    assert set(LOSS_NAMES) <= set(losses)
    network.parse_losses(losses)[0].backward()
    learned = {name: p for name, p in network.named_parameters() if "log_variance" in name}
    assert len(learned) == count
    assert all(p.grad is not None and p.grad.abs() > 0 for p in learned.values())
    assert set(learned) <= set(network.state_dict())
