"""A data set of three small pictures and networks small enough to train in a second."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper

from antvisionps.models.inference.end_networks import BUILDERS
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.optimization import optim_wrapper
from antvisionps.models.training.samples import TrainingSamples
from antvisionps.models.training.settings import TrainingSettings
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments

CATEGORIES = [
    {"id": 2, "name": "ground", "isthing": 0},
    {"id": 5, "name": "box", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 9, "name": "crowd of boxes", "isthing": 1},
]
HEIGHT, WIDTH = 64, 80


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True, scope="package")
def _silent_initialisation():
    """mmengine tells the initialisation of every tensor."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True, scope="package")
def _curves_without_a_repository():
    """DVCLive opens the git repository of the working folder and never closes its packs: a ResourceWarning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvclive.live.get_dvc_repo", lambda: None)
        yield


@pytest.fixture(scope="session")
def categories() -> CategorySet:
    return CategorySet.from_json(CATEGORIES, where="test")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, categories: CategorySet) -> PanopticDataset:
    """Image 1: two boxes, a crowd and a void strip; image 2: no thing at all; image 3: nothing but void."""
    return write_dataset(tmp_path_factory.mktemp("data"), categories)


def write_dataset(folder: Path, categories: CategorySet) -> PanopticDataset:
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = []
    for image_id in (1, 2, 3):
        segment_ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
        category_ids, crowd_ids = {}, set()
        if image_id < 3:
            segment_ids[:32], segment_ids[32:] = 10, 20
            category_ids = {10: 7, 20: 2}
        if image_id == 1:
            segment_ids[8:28, 6:30], segment_ids[40:60, 40:64], segment_ids[2:12, 50:76] = 30, 31, 32
            segment_ids[30:34] = 0
            category_ids |= {30: 5, 31: 9, 32: 9}
            crowd_ids = {32}
        photo = rng.integers(0, 40, (HEIGHT, WIDTH, 3)) + 5 * (segment_ids[..., None] % 37)
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), photo.astype(np.uint8))
        write_segment_ids_png(folder / "panoptic" / f"{image_id}.png", segment_ids)
        segments = measure_segments(segment_ids, category_ids=category_ids, crowd_ids=crowd_ids)
        images.append(PanopticImage(image_id, f"{image_id}.png", f"{image_id}.png", HEIGHT, WIDTH, segments))
    write_panoptic_json(folder / "truth.json", categories=categories, images=images)
    return read_panoptic(folder / "truth.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")


NETWORK = {
    "backbone": {
        "name": "efficientnet_lite0",
        "weights": None,
        "frozen_stages": 0,
        "frozen_norm": True,
        "deformable": False,
    },
    "fpn_channels": 16,
    "pyramid_norm": None,
    "head_norm": None,
    "anchor_scale": 4.0,
    "train_proposals": 24,
    "rois_per_image": 16,
    "box_fc_channels": 16,
    "mask_convs": 1,
    "semantic_loss_weight": 1.0,
}

NETWORKS = {
    "e_ups": NETWORK
    | {
        "semantic_channels": [16, 8],
        "image_context": False,
        "balanced_pyramid_level": None,
        "location_sensitive_header": False,
        "roi_semantic_loss_weight": 0.0,
        "panoptic_loss_weight": 0.0,
        "unknown_frac": 0.3,
    },
    "lwl_htc": NETWORK
    | {
        "location_sensitive_header": False,
        "average_mask_stages": True,
        "semantic_level": 1,
        "semantic_convs": 1,
        "semantic_loss_on": "photo",
        "deformable_semantic_head": None,
        "uncertainty": None,
    },
    "hrnet_aspp": {
        "backbone": {"width": 18, "modules": (1, 1, 1), "blocks": 1, "weights": None, "frozen_norm": False},
        "aspp_rates": (1, 2),
        "aspp_channels": 16,
        "stage1_channels": 8,
        "hard_pixel_frac": 0.5,
    },
}
"""What the smallest network of each end is built with."""

E_UPS_EXTRAS = {
    "pyramid_norm": "gn",
    "head_norm": "gn",
    "image_context": True,
    "balanced_pyramid_level": 2,
    "location_sensitive_header": True,
    "roi_semantic_loss_weight": 0.04,
    "panoptic_loss_weight": 0.1,
}

AUGMENTATION = {"short_sides_px": (64,), "max_long_side_px": 96, "flip": False, "photometric": 0.0}
"""The pictures as they are."""

TRAINING = TrainingSettings(
    seed=5,
    schedule={"iterations": 2, "batch_size": 2, "warmup_iterations": 0, "policy": "cosine", "milestones": []},
    optimizer={
        "kind": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "momentum": 0.9,
        "backbone_lr_factor": 0.3,
        "bias_lr_factor": 1.0,
        "max_grad_norm": 10.0,
        "autocast": None,
        "accumulated_batches": 1,
    },
    memory={"checkpointed_stages": [], "channels_last": False},
    augmentation={**AUGMENTATION, "flip": True},
    ema_momentum=None,
    curve_interval=1,
    evaluate_interval=None,
    keep="last",
    snapshots=(),
)

PREDICTION = PredictionSettings(
    short_sides_px=(64,), max_long_side_px=200, flip=False, min_score=0.3, nms_iou=0.5, max_instances=20
)


def build(end: str, *, seed: int = 0, sharp: bool = False, **changes: Any) -> Any:
    """The smallest network of an end with these changes. Random heads say 1/3 of everything; `sharp` ones differ."""
    torch.manual_seed(seed)
    network: Any = BUILDERS[end](
        num_things=2, num_classes=4, test_proposals=30, **copy.deepcopy(NETWORKS[end] | changes)
    )
    network.init_weights()
    for name, parameter in network.named_parameters():
        if sharp and name.endswith(("fc_cls.weight", "fc_reg.weight", "conv_logits.weight")):
            torch.nn.init.normal_(parameter, std=0.6)
    return network


def batch_of(network: Any, dataset: PanopticDataset, positions: Sequence[int] = (0, 1, 2), **changes: Any) -> Any:
    """`inputs` and `data_samples` of these images, as a training step gets them."""
    samples = TrainingSamples(dataset, seed=0, **AUGMENTATION | changes)
    return network.data_preprocessor(
        pseudo_collate([samples[k, position] for k, position in enumerate(positions)]), True
    )


def losses_of(network: Any, batch: Any) -> dict[str, torch.Tensor]:
    """What a step on the batch logs; gradients are computed. The samplers of proposals draw from torch's generator."""
    torch.manual_seed(1)
    network.train().zero_grad()
    total, logged = network.parse_losses(network(**batch, mode="loss"))
    total.backward()
    return logged


def gradients_of(network: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def take_steps(network: Any, dataset: PanopticDataset, count: int, **optimizer: Any) -> list[dict[str, Any]]:
    """What training steps on the first picture log."""
    wrapper = build_optim_wrapper(network, optim_wrapper(**optimizer))
    samples = TrainingSamples(dataset, seed=0, **AUGMENTATION)
    network.train()
    return [network.train_step(pseudo_collate([samples[step, 0]]), wrapper) for step in range(count)]


def pyramid(channels: int) -> list[torch.Tensor]:
    """Two images' levels, of strides 1 to 16."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, 32 // s, 48 // s, generator=generator) for s in (1, 2, 4, 8, 16)]


def photo(hw: tuple[int, int] = (64, 80)) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 255, (*hw, 3)).astype(np.uint8)
