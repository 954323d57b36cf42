"""What the first step of a training and a prediction give, in one process or in several.

Nothing random is left in the networks: every anchor and RoI is sampled, nothing is dropped, every instance is known.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.model import MMDistributedDataParallel

from antvisionps.models.blocks.two_stage import RandomSampler
from antvisionps.models.blocks.whole_batch import share_batch
from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.inference.fill_caches import fill_caches
from antvisionps.models.training.optimization import save_memory
from antvisionps.models.training.processes import stage_processes
from antvisionps.models.training.samples import SampleOrder, TrainingSamples
from antvisionps.panoptic.categories import CategorySet
from tests.models.conftest import CATEGORIES, HEIGHT, NETWORK, PREDICTION, WIDTH, build, write_dataset

BATCH_SIZE = 4
LEARNING_NORM = NETWORK["backbone"] | {"frozen_norm": False}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "e_ups": ("e_ups", {}),
    "e_ups_all_losses": (
        "e_ups",
        {"roi_semantic_loss_weight": 0.5, "panoptic_loss_weight": 0.5, "unknown_frac": 0.0}
        | {"location_sensitive_header": True},
    ),
    "e_ups_learning_norm": ("e_ups", {"backbone": LEARNING_NORM}),
    "lwl_htc": ("lwl_htc", {}),
    "lwl_htc_dc_head": ("lwl_htc", {"deformable_semantic_head": "shared", "uncertainty": "term"}),
    "hrnet_aspp": ("hrnet_aspp", {}),
}
"""Name → end, and what differs from its smallest network."""

OF_TWO_SIZES = "lwl_htc_dc_head"
"""The variant that also takes a step with images of another size on each process."""

CHECKPOINTED = ("e_ups", "lwl_htc")
"""Variants that compute stages 1 and 4 of the backbone again in the backward pass."""

ASPECTS = [HEIGHT / WIDTH] * 3
AUGMENTATION = {"short_sides_px": (64, 96, 128), "max_long_side_px": 200, "flip": True, "photometric": 0.2}


def build_variant(variant: str) -> Any:
    torch.use_deterministic_algorithms(True)
    end, changes = VARIANTS[variant]
    network = build(end, seed=3, **changes)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # mmdet keeps its samplers outside of torch's tree of modules.
        for held in vars(module).values():
            for sampler in held if isinstance(held, list) else [held]:
                if isinstance(sampler, RandomSampler):
                    sampler.num = 10**6
    # Batch norm over four pooled images magnifies the rounding of float32.
    return network.train().double() if end == "hrnet_aspp" else network.train()


def first_step(variant: str, samples: TrainingSamples) -> dict[str, Any]:
    """Losses, gradients and buffers after one batch of BATCH_SIZE images of all processes together."""
    rank, processes = get_dist_info()
    network = build_variant(variant)
    save_memory(network, checkpointed_stages=(1, 4) if variant in CHECKPOINTED else (), channels_last=False)
    network.train()
    own = BATCH_SIZE // processes
    order = iter(SampleOrder(ASPECTS, seed=5, batch_size=own, rank=rank, processes=processes))
    wrapped = network
    if processes > 1:
        network = share_batch(network, torch.device("cpu"))
        wrapped = MMDistributedDataParallel(network)
    batch = network.data_preprocessor(pseudo_collate([samples[next(order)] for _ in range(own)]), training=True)
    losses = wrapped(**batch, mode="loss")
    loss, logged = network.parse_losses(losses)
    loss.backward()
    values = torch.stack([value.detach().float() for value in logged.values()])
    if processes > 1:
        torch.distributed.all_reduce(values)
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return {
        "losses": dict(zip(logged, (values / processes).tolist(), strict=True)),
        "gradients": gradients,
        "buffers": dict(network.named_buffers()),
    }


def predict(dataset: Any, out_dir: Path) -> None:
    """The caches of two ends, of the same weights wherever it runs."""
    ends = {end: EndNetworks([build_variant(end).eval()], [1.0], 30) for end in ("e_ups", "hrnet_aspp")}
    places = {"predictions_dir": out_dir, "work_dir": out_dir / "unfinished"}
    settings = replace(PREDICTION, min_score=0.0)
    fill_caches(ends, {"val": dataset}, settings, dataset_fingerprint="0" * 64, **places)


def run_in_two_processes(folder: Path) -> None:
    """Fills the folder, as one of two processes that torchrun started."""
    with stage_processes(launcher="pytorch", processes=2, device="cpu", cpu_threads=1):
        rank, _ = get_dist_info()
        categories = CategorySet.from_json(CATEGORIES, where="test")
        dataset = write_dataset(folder / f"data-{rank}", categories)
        samples = TrainingSamples(dataset, seed=5, batch_size=BATCH_SIZE, **AUGMENTATION)
        for variant in VARIANTS:
            step = first_step(variant, samples)
            if rank == 0:
                torch.save(step, folder / f"{variant}.pth")
        step = first_step(OF_TWO_SIZES, TrainingSamples(dataset, seed=5, batch_size=BATCH_SIZE // 2, **AUGMENTATION))
        if rank == 0:
            torch.save(step, folder / "two_sizes.pth")
        predict(dataset, folder / "predictions")
