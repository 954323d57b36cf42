"""That what saves memory changes no result, and what cannot work is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mmcv.ops import DeformConv2dPack
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.two_stage import roi_extractor
from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.lwl_htc.uncertainty import UncertaintyWeighting
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.models.training.samples import TrainingSamples, collate

SGD = {
    "kind": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "momentum": 0.9,
    "backbone_lr_factor": 1.0,
    "bias_lr_factor": 1.0,
    "max_grad_norm": None,
    "autocast": None,
    "accumulated_batches": 1,
}
BACKBONES = ["efficientnet_lite0", "resnet18", "timm:seresnext26d_32x4d"]


@pytest.fixture
def build(network_settings):
    def build_network(backbone: str = "efficientnet_lite0", **changes):
        torch.manual_seed(0)
        settings = network_settings["e_ups"]
        settings = settings | {"backbone": settings["backbone"] | {"name": backbone} | changes}
        network = build_e_ups(num_things=2, num_classes=4, test_proposals=30, **settings)
        network.init_weights()
        return network

    return build_network


def gradients(network, dataset) -> dict[str, torch.Tensor]:
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    network.train()
    data = network.data_preprocessor(collate([samples[0, 0]]), training=True)
    torch.manual_seed(1)
    total, _ = network.parse_losses(network.loss(data["inputs"], data["data_samples"]))
    total.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"": total.detach()} | found


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointing_and_channels_last_change_neither_loss_nor_gradients(build, dataset, backbone, channels_last):
    expected = gradients(build(backbone), dataset)
    network = build(backbone)
    save_memory(network, checkpointed_stages=(1, 2, 3, 4), channels_last=channels_last)
    got = gradients(network, dataset)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_listed_stages_are_computed_twice_and_no_other(build, dataset, backbone):
    network = build(backbone)
    runs = []
    stages = network.backbone.blocks_of_stages()
    for number, blocks in enumerate(stages, start=1):
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
            # Hooks see calls; checkpoint calls forward, so what is counted stands inside.
            block.forward = partial(_counted, block.forward, runs, 10 * number)
    save_memory(network, checkpointed_stages=(3,), channels_last=False)
    gradients(network, dataset)
    blocks = [len(stage) for stage in stages]
    assert [runs.count(10 * number) for number in (1, 2, 3, 4)] == [blocks[0], blocks[1], 2 * blocks[2], blocks[3]]
    assert [runs.count(number) for number in (1, 2, 3, 4)] == blocks


def _counted(forward, runs, number, x):
    runs.append(number)
    return forward(x)


def test_checkpointing_keeps_names_of_weights(build):
    names = list(build().state_dict())
    network = build()
    save_memory(network, checkpointed_stages=(1, 2, 3, 4), channels_last=True)
    assert list(network.state_dict()) == names


def test_checkpointing_holds_fewer_activations(build):
    held = {}
    for stages in ((), (1, 2, 3, 4)):
        network = build("resnet50")
        save_memory(network, checkpointed_stages=stages, channels_last=False)
        network.train()
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.__setitem__(t.data_ptr(), t.numel()) or t, lambda t: t
        ):
            features = network.backbone(torch.randn(1, 3, 64, 64))
        held[stages] = sum(sizes.values())
        del features
    assert held[(1, 2, 3, 4)] < 0.4 * held[()]


def test_checkpointing_a_stage_whose_norms_learn_is_refused(build):
    network = build("resnet18", frozen_norm=False, frozen_stages=2)
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
        for conv in ("conv", "deformable.conv_offset"):
            expected |= {f"{place}.{conv}.weight": (rate, 0.1), f"{place}.{conv}.bias": (4 * rate, 0.0)}
        expected |= {f"{place}.deformable.weight": (rate, 0.1)}
        expected |= {f"{place}.norm.{kind}": (rate, 0.0) for kind in ("weight", "bias")}
    expected |= {f"weighting.log_variance.{task}": (0.01, 0.0) for task in ("instance", "semantic")}
    assert got.keys() == expected.keys()
    for name, factors in expected.items():
        assert got[name] == pytest.approx(factors), name
    assert optimizer.param_groups[0]["lr"] == 0.01  # the one that curves show


def test_autocast_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"memory\.autocast is bfloat16, which needs a CUDA device"):
        optim_wrapper(**(SGD | {"autocast": "bfloat16"}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_trains_on_a_gpu(build, dataset, autocast):
    network = build().cuda()
    wrapper = build_optim_wrapper(network, optim_wrapper(**(SGD | {"autocast": autocast})))
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    network.train()
    losses = [float(network.train_step(collate([samples[0, 0]]), wrapper)["loss"]) for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_bfloat16_losses_are_close_to_float32(build, dataset):
    samples = TrainingSamples(dataset, seed=0, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    network = build()
    network.train()
    data = network.data_preprocessor(collate([samples[0, 0]]), training=True)
    totals = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total, _ = network.parse_losses(network.loss(data["inputs"], data["data_samples"]))
        total.backward()
        totals.append(total.detach())
    assert totals[1] == pytest.approx(float(totals[0]), rel=0.05)


def test_boxes_of_roi_features_are_not_rounded_to_half_precision():
    extractor = MODELS.build(roi_extractor(channels=4, size=7))
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, 4, 1344 // s, 1344 // s, generator=generator).bfloat16() for s in (4, 8, 16, 32)]
    rois = torch.tensor([[0, 1201.0, 1205, 1233, 1241], [0, 901, 303, 1310, 777]])
    exact = extractor([level.float() for level in levels], rois)
    torch.testing.assert_close(extractor(levels, rois).float(), exact, rtol=1e-2, atol=1e-2)
    stock = extractor.__class__.__base__.forward(extractor, levels, rois).float()
    assert (stock - exact).abs().max() > 0.3


def test_roi_features_of_every_level_are_mmdets():
    extractor = MODELS.build(roi_extractor(channels=4, size=7))
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 4, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)]
    sides = torch.tensor([12.0, 60, 111, 113, 200, 230, 400, 460, 500, 20])
    corners = torch.rand(10, 2, generator=generator) * 12
    rois = torch.cat([torch.arange(10).float()[:, None] % 2, corners, corners + sides[:, None]], dim=1)
    assert set(extractor.map_roi_levels(rois, 4).tolist()) == {0, 1, 2, 3}
    stock = extractor.__class__.__base__.forward(extractor, levels, rois)
    torch.testing.assert_close(extractor(levels, rois), stock, rtol=0, atol=0)
