"""One network for a few steps on random pictures: that it builds, learns and predicts, how much it holds, how long
it takes."""

import copy
import ctypes
import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from torch import nn

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import BUILDERS, EndNetworks
from antvisionps.models.inference.predict_photo import predict_photo
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.models.training.samples import make_sample, visible_things
from antvisionps.models.training.start import start_from
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.params.prediction import Predict
from antvisionps.preflight.networks import TrainedNetwork

FIRST_STEP_FRAC = 0.001
"""Of the learning rate in the first step of a warm-up (`_learning_rates` of antvisionps/models/training/loop.py)."""

NUM_BANDS, NUM_THINGS = 4, 16
"""Of stuff and of things in a random picture."""


@dataclass(frozen=True)
class Batch:
    """What a step sees."""

    hw: tuple[int, int]
    images: int

    @property
    def pixels(self) -> int:
        return self.hw[0] * self.hw[1] * self.images


@dataclass(frozen=True)
class Measured:
    """Steps on one batch. `peak_bytes` is the device's on a GPU, else this process's, None where it is not told."""

    batch: Batch
    step_s: float
    peak_bytes: int | None


@dataclass(frozen=True)
class NetworkTrial:
    """`kept_bytes` are the trained weights and their snapshots. `training_bytes` is what stays during training:
    weights, gradients and the optimiser's state; `checkpoint_bytes` weights and the optimiser's state, each with the
    copies of the weights that are their average or their best. `photo_s` is the time to predict one picture of the last
    batch's size."""

    parameters: int
    weights_bytes: int
    kept_bytes: int
    checkpoint_bytes: int
    training_bytes: int
    steps: tuple[Measured, ...]
    photo_s: float


def try_network(
    network: TrainedNetwork,
    predict: Predict,
    *,
    categories: CategorySet,
    batches: Sequence[Batch],
    num_steps: int,
    device: torch.device,
) -> NetworkTrial:
    """Builds a network with random weights as its stages do, starts it from its detector's file, takes `num_steps`
    steps on each of `batches`, of whose times it tells the least, and predicts a picture.

    Autocast is left out on a CPU. Raises ModelError where the network cannot be built, cannot start from the file, or a
    loss is not finite.
    """
    training, settings = network.training, network.settings
    logging.disable(logging.WARNING)  # mmengine tells the initialisation of every tensor
    torch.manual_seed(0)
    model: Any = BUILDERS[network.end](
        num_things=len(categories.things),
        num_classes=len(categories),
        test_proposals=predict.max_proposals,
        **{**settings, "backbone": settings["backbone"] | {"weights": None}},
    )
    model.init_weights()
    if network.load_from is not None:
        start_from(Path(network.load_from), model, categories)
    model.to(device)
    calibrate_norms(model, random_batch(Batch((64, 96), 2), categories, seed=0))
    save_memory(model, **training.memory.model_dump())
    optimizer = training.optimizer.model_dump() | {"accumulated_batches": 1}
    optimizer["learning_rate"] *= FIRST_STEP_FRAC
    if device.type != "cuda":
        optimizer["autocast"] = None
    wrapper = build_optim_wrapper(model, optim_wrapper(**optimizer))
    copies = [copy.deepcopy(model)] if training.ema_momentum is not None else []
    steps = tuple(
        take_steps(model, wrapper, batch, categories, num_steps=num_steps, device=device) for batch in batches
    )
    weights, state = _bytes_of(model.state_dict()), _bytes_of(wrapper.optimizer.state_dict())
    averaged, best = weights * len(copies), weights * (training.keep == "best")
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return NetworkTrial(
        parameters=sum(p.numel() for p in model.parameters()),
        weights_bytes=weights,
        kept_bytes=weights * (1 + len(training.snapshots)),
        checkpoint_bytes=weights + averaged + best + state,
        training_bytes=weights + averaged + gradients + state,
        steps=steps,
        photo_s=_predict(model, batches[-1].hw, categories, predict, num_steps),
    )


def take_steps(
    model: Any, wrapper: Any, batch: Batch, categories: CategorySet, *, num_steps: int, device: torch.device
) -> Measured:
    """The least time of steps on random pictures, and their peak. Raises ModelError on a loss that is not finite."""
    seconds = []
    model.train()
    with peak_bytes(device) as peak:
        for step in range(num_steps):
            data = random_batch(batch, categories, seed=step)
            start = time.perf_counter()
            losses = model.train_step(data, wrapper)
            total = losses["loss"].item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
            if not np.isfinite(total):
                raise ModelError(f"the loss of step {step + 1} on random pictures is {total}")
        reached = peak()
    model.zero_grad(set_to_none=True)
    return Measured(batch, min(seconds), reached)


def _predict(model: Any, hw: tuple[int, int], categories: CategorySet, predict: Predict, num_photos: int) -> float:
    end = EndNetworks([model.eval()], [1.0], predict.max_proposals)
    settings = PredictionSettings(
        **{**predict.keyword_arguments(), "short_sides_px": [min(hw)], "max_long_side_px": max(hw)}
    )
    seconds = []
    for seed in range(num_photos):
        photo = np.random.default_rng(seed).integers(0, 255, (*hw, 3)).astype(np.uint8)
        start = time.perf_counter()
        predict_photo(photo, end, settings, image_id=1, categories=categories)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _bytes_of(node: Any) -> int:
    """Of all tensors in a nested state."""
    if isinstance(node, torch.Tensor):
        return node.numel() * node.element_size()
    if isinstance(node, Mapping):
        return sum(_bytes_of(value) for value in node.values())
    return 0


@contextmanager
def peak_bytes(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Gives a function that tells the peak since entry: allocated on a GPU, resident on a CPU (None but on Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier networks have freed
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    except (OSError, AttributeError):  # no Linux, no glibc
        yield lambda: None
        return
    yield _resident_high_water_bytes


def _resident_high_water_bytes() -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return None


def calibrate_norms(model: Any, batch: dict[str, list[Any]]) -> None:
    """Gives frozen batch norms the statistics that pretraining would have: without, activations grow from block to
    block until they overflow."""
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    model.backbone.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
        # mmdet starts the last norm of a block at 0, which a frozen norm would never leave.
        nn.init.ones_(norm.weight)
    with torch.no_grad():
        model.backbone(model.data_preprocessor(batch, True)["inputs"])
    model.backbone.train()


def random_batch(batch: Batch, categories: CategorySet, *, seed: int) -> dict[str, list[Any]]:
    """Random samples, as the data loader would give them."""
    return pseudo_collate([random_sample(batch.hw, categories, seed=(seed, index)) for index in range(batch.images)])


def random_sample(hw: tuple[int, int], categories: CategorySet, *, seed: tuple[int, int]) -> dict[str, Any]:
    """Noise with 16 rectangular things on bands of stuff."""
    rng = np.random.default_rng(seed)
    height, width = hw
    segment_ids = np.zeros(hw, dtype=np.int32)
    category_ids = {}
    for band in range(NUM_BANDS):
        segment_ids[band * height // NUM_BANDS : (band + 1) * height // NUM_BANDS] = band + 1
        category_ids[band + 1] = int(rng.choice([category.category_id for category in categories.stuff]))
    for thing in range(NUM_THINGS):
        h, w = (max(8, int(side * rng.uniform(0.05, 0.4))) for side in hw)
        top, left = int(rng.integers(height - h)), int(rng.integers(width - w))
        segment_ids[top : top + h, left : left + w] = 10 + thing
        category_ids[10 + thing] = int(rng.choice([category.category_id for category in categories.things]))
    photo = rng.integers(0, 255, (*hw, 3)).astype(np.uint8) // 2 + (segment_ids[..., None] * 5 % 128).astype(np.uint8)
    visible = {segment_id: category_ids[segment_id] for segment_id in np.unique(segment_ids).tolist()}
    segments = measure_segments(segment_ids, category_ids=visible, crowd_ids=set())
    image = PanopticImage(1, "1.png", "1.png", height, width, segments)
    things = visible_things(segment_ids, image=image, categories=categories)
    return make_sample(photo, segment_ids, things, image=image, categories=categories)
