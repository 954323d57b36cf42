"""That what saves memory changes no result, and what cannot work is refused."""

from collections import Counter
from functools import partial

import pytest
import torch
from mmcv.ops import DeformConv2dPack
from mmengine.optim import build_optim_wrapper

from antvisionps.core.errors import ModelError
from antvisionps.models.lwl_htc.uncertainty import UncertaintyWeighting
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from tests.models.conftest import NETWORK, NETWORKS, TRAINING, batch_of, build, gradients_of, losses_of, take_steps

SGD = TRAINING.optimizer | {"kind": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "backbone_lr_factor": 1.0}
SGD |= {"max_grad_norm": None}
BACKBONES = {
    name: ("e_ups", NETWORK["backbone"] | {"name": name})
    for name in ("efficientnet_lite0", "resnet18", "timm:seresnext26d_32x4d")
} | {"hrnet": ("hrnet_aspp", NETWORKS["hrnet_aspp"]["backbone"] | {"frozen_norm": True})}
backbones = pytest.mark.parametrize(("end", "backbone"), BACKBONES.values(), ids=BACKBONES)


@backbones
def test_checkpointing_and_channels_last_change_neither_loss_nor_gradients(dataset, end, backbone):
    found = []
    for stages, channels_last in (((), False), ((1, 2, 3, 4), False), ((1, 2, 3, 4), True)):
        network = build(end, backbone=backbone)
        save_memory(network, checkpointed_stages=stages, channels_last=channels_last)
        losses = losses_of(network, batch_of(network, dataset, (0, 0)))
        found.append((losses, gradients_of(network), dict.fromkeys(network.state_dict())))
    for got in found[1:]:
        torch.testing.assert_close(got[:2], found[0][:2], rtol=1e-3, atol=1e-5)
        assert got[2] == found[0][2]


@backbones
def test_the_listed_stages_are_computed_twice_and_no_other(dataset, end, backbone):
    network = build(end, backbone=backbone)
    runs = Counter()

    def counted(forward, number, x):
        runs[number] += 1
        return forward(x)

    stages = dict(enumerate(network.backbone.blocks_of_stages(), start=1))
    for number, blocks in stages.items():
        for block in blocks:
            # Hooks see calls; checkpoint calls forward, so what is counted stands inside.
            block.forward = partial(counted, block.forward, number)
    save_memory(network, checkpointed_stages=(3,), channels_last=False)
    losses_of(network, batch_of(network, dataset, (0, 0)))
    assert runs == {number: len(blocks) * (2 if number == 3 else 1) for number, blocks in stages.items()}


def test_checkpointing_a_stage_whose_norms_learn_is_refused():
    learning = {"name": "resnet18", "frozen_norm": False, "frozen_stages": 2}
    network = build("e_ups", backbone=NETWORK["backbone"] | learning)
    save_memory(network, checkpointed_stages=(1, 2), channels_last=False)  # frozen stages do not count
    with pytest.raises(ModelError, match=r"checkpointed_stages lists 3, .*frozen_norm to true"):
        save_memory(network, checkpointed_stages=(3,), channels_last=False)


def test_accumulated_batches_step_as_one_large_batch():
    stepped = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        wrapper = build_optim_wrapper(model, optim_wrapper(**(SGD | {"accumulated_batches": parts})))
        wrapper.initialize_count_status(model, 0, 4 * parts)
        data = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1))
        for batch in data:
            for part in batch.chunk(parts):
                wrapper.update_params(model(part).square().mean())
        stepped.append(model.weight.detach().clone())
    torch.testing.assert_close(stepped[0], stepped[1])


class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 2, 1)
        self.deformable = DeformConv2dPack(2, 2, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(2)
        self.stem = torch.nn.Conv2d(2, 2, 1).requires_grad_(False)


def test_rates_and_decay_of_every_kind_of_parameter():
    model = torch.nn.Module()
    model.backbone = Backbone()
    model.head = Backbone()
    model.weighting = UncertaintyWeighting(balance="task", loss_names=())
    changes = {"weight_decay": 0.1, "backbone_lr_factor": 0.5, "bias_lr_factor": 4.0}
    changes |= {"offset_lr_factor": 0.2, "log_variance_lr_factor": 30.0}
    optimizer = build_optim_wrapper(model, optim_wrapper(**(SGD | changes))).optimizer
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    got = {
        name_of[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    # UPSNet: the rate of a bias is multiplied, and neither it nor a norm decays, wherever it stands.
    expected = {}
    for place, rate in (("backbone", 0.005), ("head", 0.01)):
        for conv, factor in (("conv", 1.0), ("deformable.conv_offset", 0.2)):
            own = factor * rate
            expected |= {f"{place}.{conv}.weight": (own, 0.1), f"{place}.{conv}.bias": (4 * own, 0.0)}
        expected |= {f"{place}.deformable.weight": (rate, 0.1)}
        expected |= {f"{place}.norm.{kind}": (rate, 0.0) for kind in ("weight", "bias")}
    expected |= {f"weighting.log_variance.{task}": (0.3, 0.0) for task in ("instance", "semantic")}
    assert got.keys() == expected.keys()
    for name, factors in expected.items():
        assert got[name] == pytest.approx(factors), name
    assert optimizer.param_groups[0]["lr"] == 0.01  # the one that curves show


def test_autocast_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cpu")
    with pytest.raises(ModelError, match=r"optimizer\.autocast is bfloat16, which needs a CUDA device"):
        optim_wrapper(**(SGD | {"autocast": "bfloat16"}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_trains_on_a_gpu(dataset, autocast):
    logged = take_steps(build("e_ups").cuda(), dataset, 20, **(SGD | {"autocast": autocast}))
    losses = [float(step["loss"]) for step in logged]
    assert sum(losses[-5:]) < sum(losses[:5])
