"""Peak memory and speed at paper size, on random data: a training step of every Table 1 variant and of LWL-HTC beside
mmdet's HTC, then prediction by both ends, on a backbone each and on one.

    python -m benchmarks.train_memory --device cuda                    # all tables, 10 to 15 minutes
    python -m benchmarks.train_memory --device cuda --variants htc     # LWL-HTC, mmdet's HTC and prediction
    python -m benchmarks.train_memory --device cpu --quick             # small pictures, to see that it runs

First, SENet-154 with BFP and LSH has to lower its loss within 30 steps, where it is among the variants; the exit status
says whether it did. Then every row trains for a few steps as the stages do: same network, same optimiser, same mixed
precision. 800 px means 800 x 1088 with one image, 1024 px means 1024 x 1376 with two (COCO's 4:3, padded to multiples
of 32). The tables are printed row by row, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.inference.shared_backbone import RememberingBackbone
from antvisionps.models.inference.views import PredictionSettings, predict_image
from antvisionps.models.lwl_htc.network import HtcSettings, build_lwl_htc, htc_parts
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.models.training.samples import collate
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.training import Network
from antvisionps.params.whole import load_params
from antvisionps.preflight.trial import calibrate_norms, random_sample
from benchmarks.stock_panoptic_fpn import SHARED_WITH_E_UPS, build_panoptic_fpn

# mmdet can be imported once antvisionps.models has put mmcv's operators in place.
# isort: split
from mmdet.models.detectors import HybridTaskCascade

PROFILE = Path("profiles/coco_paper.yaml")
NUM_THINGS, NUM_STUFF = 80, 53
TEST_PROPOSALS = 1000
STOCK = "mmdet Panoptic FPN, R101"
HARDEST = "se154_bfp_lsh"
ORDER = (
    HARDEST,
    STOCK,
    "r101_dcn",
    "r101_dcn_bfp_lsh",
    "se154",
    "se154_lsh",
    "r50",
    "r101_dcn_bfp",
    "r101_dcn_lsh",
    "se154_bfp",
)
"""What matters most first: --time-limit-s cuts the end off."""

STOCK_HTC = {f"mmdet HTC, R{depth}": f"resnet{depth}" for depth in (50, 101)}
PLAIN_R50 = {"name": "resnet50", "deformable": False}
PLAIN_R101 = {"name": "resnet101", "deformable": False}
HTC_VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lwl_htc_r50": (PLAIN_R50, {}),
    "lwl_htc_r101": (PLAIN_R101, {}),
    "lwl_htc_r101_lsh": (PLAIN_R101, {"location_sensitive_header": True}),
    "lwl_htc_r101_dcn": ({}, {}),
}
"""Changes of the backbone and of the rest of the profile's LWL-HTC, which has the DC head and learned uncertainty."""
HTC_ORDER = ("mmdet HTC, R50", "lwl_htc_r50", "mmdet HTC, R101", *list(HTC_VARIANTS)[1:])
PREDICTING_BACKBONES = ("resnet50", "resnet101")

CHECKPOINTED = (1, 2, 3, 4)
STEPS_THAT_LOWER_THE_LOSS = 30
GIB = 2**30


@dataclass(frozen=True)
class Size:
    name: str
    hw: tuple[int, int]
    batch_size: int


SIZES = (Size("800", (800, 1088), 1), Size("1024", (1024, 1376), 2))
QUICK_SIZES = (Size("64", (64, 96), 1),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small size, one timed step")
    choices = ("htc", *ORDER, *HTC_ORDER)
    parser.add_argument("--variants", nargs="+", choices=choices, default=[*ORDER, "htc"], help="htc: all of LWL-HTC")
    parser.add_argument("--time-limit-s", type=float, default=900, help="rows that would start later are left out")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # mmengine tells the initialisation of every tensor
    device = torch.device(arguments.device)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    warmup, timed = (1, 1) if arguments.quick else (2, 5)
    started = time.perf_counter()

    describe(device)
    learned = arguments.quick or HARDEST not in arguments.variants or report_learning(device, sizes[-1])
    print("\n| variant | px | batch | checkpointing | autocast | peak GiB | reserved GiB | ms a step | images/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    variants = [v for name in arguments.variants for v in (HTC_ORDER if name == "htc" else (name,))]
    steps = {"device": device, "warmup": warmup, "timed": timed}
    tables = [rows_of(variant, sizes, **steps) for variant in variants]
    if set(variants) & set(HTC_ORDER):
        tables.append(predicting_table(sizes, **steps))
    for variant, rows in zip([*variants, "prediction"], tables, strict=False):
        for row in rows:
            print(row, flush=True)
            if time.perf_counter() - started > arguments.time_limit_s:
                print(f"\nstopped after {arguments.time_limit_s:.0f} s, within {variant}", flush=True)
                sys.exit(not learned)
    print(f"\n{time.perf_counter() - started:.0f} s in all", flush=True)
    sys.exit(not learned)


def describe(device: torch.device) -> None:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, TF32 convolutions {torch.backends.cudnn.allow_tf32}", flush=True)


def report_learning(device: torch.device, size: Size) -> bool:
    """Whether 30 steps on one batch lower the loss of the network that the report could not fit."""
    autocast = "bfloat16" if device.type == "cuda" else None
    model = build(HARDEST).to(device)
    save_memory(model, checkpointed_stages=CHECKPOINTED, channels_last=False)
    batch = random_batch(size, seed=0)
    calibrate_norms(model, batch)
    # AdamW, because SGD needs a warm-up of more steps than these on a network whose backbone is random too.
    wrapper = optimizer_of(model, autocast=autocast, kind="adamw", learning_rate=5e-5)
    model.train()
    losses = []
    with peak_memory(device) as peak:
        for step in range(STEPS_THAT_LOWER_THE_LOSS):
            torch.manual_seed(step)
            losses.append(float(model.train_step(batch, wrapper)["loss"]))
    first, last = losses[0], statistics.mean(losses[-5:])
    print(
        f"{HARDEST}, {size.name} px, batch {size.batch_size}, checkpointing, autocast {autocast}: loss of the first of "
        f"{STEPS_THAT_LOWER_THE_LOSS} steps {first:.3f}, mean of the last five {last:.3f}; peak GiB {peak()}",
        flush=True,
    )
    return last < first


def rows_of(variant: str, sizes: tuple[Size, ...], *, device: torch.device, warmup: int, timed: int) -> Iterator[str]:
    """The table's rows of one variant: every size, with and without checkpointing and autocast."""
    model = build(variant, rois_per_image=16 if sizes == QUICK_SIZES else None).to(device)
    calibrate_norms(model, random_batch(QUICK_SIZES[0], seed=1))
    precisions = (None, "bfloat16") if device.type == "cuda" else (None,)
    for checkpointing in (False, True):
        if checkpointing:
            save_memory(model, checkpointed_stages=CHECKPOINTED, channels_last=False)
        for size, autocast in itertools.product(sizes, precisions):
            measured = measure(model, size, autocast=autocast, device=device, warmup=warmup, timed=timed)
            setting = f"{size.batch_size} | {'yes' if checkpointing else 'no'} | {autocast or 'no'}"
            yield f"| {variant} | {size.name} | {setting} | {measured} |"
    del model
    release()


def measure(model: Any, size: Size, *, autocast: str | None, device: torch.device, warmup: int, timed: int) -> str:
    """Peak memory, time a step and images a second, as cells of the table."""
    batches = [random_batch(size, seed=seed) for seed in range(2)]
    # So small a step that the random network stays what it is.
    wrapper = optimizer_of(model, learning_rate=1e-7, autocast=autocast)
    model.train()
    seconds = []
    try:
        with peak_memory(device) as peak:
            for step in range(warmup + timed):
                torch.manual_seed(step)
                start = time.perf_counter()
                model.train_step(batches[step % 2], wrapper)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - start)
            memory = peak()
    except torch.cuda.OutOfMemoryError:
        memory, seconds = "out of memory | ", []
    finally:
        model.zero_grad(set_to_none=True)
        del wrapper
        release()
    if not seconds:
        return f"{memory} | – | –"
    step_s = statistics.median(seconds[warmup:])
    return f"{memory} | {1000 * step_s:.0f} | {size.batch_size / step_s:.2f}"


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], str]]:
    """Gives a function that tells the peak since entry: allocated and reserved on a GPU, resident on a CPU."""
    release()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: " | ".join(
            f"{peak(device) / GIB:.2f}" for peak in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved)
        )
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again
        yield lambda: f"{_resident_high_water_bytes() / GIB:.2f} | –"


def _resident_high_water_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def build(variant: str, *, rois_per_image: int | None = None) -> Any:
    """The network of that name in the paper's profile, or mmdet's own, with random weights."""
    torch.manual_seed(0)
    params = load_params(PROFILE)
    if variant in HTC_ORDER:
        model = build_htc(variant, paper_settings(params.train_lwl_htc.network, rois_per_image))
    elif variant == STOCK:
        settings = paper_settings(params.train_e_ups.networks["r101_dcn"], rois_per_image)
        settings["backbone"]["deformable"] = False
        shared = ("num_things", "num_classes", "test_proposals", *SHARED_WITH_E_UPS)
        model = build_panoptic_fpn(**{key: settings[key] for key in shared})
    else:
        model = build_e_ups(**paper_settings(params.train_e_ups.networks[variant], rois_per_image))
    model.init_weights()
    return model


def build_htc(variant: str, settings: dict[str, Any]) -> Any:
    if variant in HTC_VARIANTS:
        backbone, changes = HTC_VARIANTS[variant]
        settings["backbone"] |= backbone
        return build_lwl_htc(**settings | changes)
    # configs/htc/htc_r50_fpn_1x_coco.py: HTC's own semantic branch at stride 8, here of all panoptic classes.
    settings["backbone"] |= {"name": STOCK_HTC[variant], "deformable": False}
    del settings["uncertainty"], settings["average_mask_stages"]
    plain = {"location_sensitive_header": False, "deformable_semantic_head": None, "semantic_level": 1}
    return HybridTaskCascade(**htc_parts(HtcSettings(**settings | plain)))


def paper_settings(network: Network, rois_per_image: int | None) -> dict[str, Any]:
    """What the profile's network is built with, on COCO's classes and without pretrained weights."""
    settings = network.model_dump(mode="json")
    settings["backbone"]["weights"] = None
    settings["rois_per_image"] = rois_per_image or settings["rois_per_image"]
    classes = {"num_things": NUM_THINGS, "num_classes": NUM_THINGS + NUM_STUFF}
    return settings | classes | {"test_proposals": TEST_PROPOSALS}


def predicting_table(sizes: tuple[Size, ...], *, device: torch.device, warmup: int, timed: int) -> Iterator[str]:
    """Both ends on one photo: each alone, one after the other, and on one frozen backbone.

    Random heads find every box: 100 instances a photo, the most there can be.
    """
    yield "\n| backbone of both ends | px | passes | peak GiB | reserved GiB | ms a photo | photos/s |"
    yield "|---|---|---|---|---|---|---|"
    for name in PREDICTING_BACKBONES:
        proposals = 50 if sizes == QUICK_SIZES else TEST_PROPOSALS
        ends = [predicting_end(end, name, proposals=proposals) for end in ("e_ups", "lwl_htc")]
        calibrate_norms(ends[0], random_batch(QUICK_SIZES[0], seed=1))
        ends[1].backbone.load_state_dict(ends[0].backbone.state_dict())
        for size in sizes:
            alone = []
            for label, end in zip(("E-UPS alone", "LWL-HTC alone"), ends, strict=True):
                cells, seconds = predicting([end], size, device=device, warmup=warmup, timed=timed)
                alone.append(seconds)
                yield f"| {name} | {size.name} | {label} | {cells} |"
            yield f"| {name} | {size.name} | both, separate | – | – | {_speed(sum(alone))} |"
            own = [end.backbone for end in ends]
            ends[0].backbone = ends[1].backbone = RememberingBackbone(own[0], num_views=1)
            cells, _ = predicting(ends, size, device=device, warmup=warmup, timed=timed)
            ends[0].backbone, ends[1].backbone = own
            yield f"| {name} | {size.name} | both, one backbone | {cells} |"


def predicting_end(end: str, backbone: str, *, proposals: int) -> Any:
    """An end of the profile on a plain ResNet of random weights."""
    params = load_params(PROFILE)
    networks = {"e_ups": params.train_e_ups.networks["r50"], "lwl_htc": params.train_lwl_htc.network}
    settings = paper_settings(networks[end], None)
    settings["backbone"] |= {"name": backbone, "deformable": False}
    settings["test_proposals"] = proposals
    torch.manual_seed(0)
    model = {"e_ups": build_e_ups, "lwl_htc": build_lwl_htc}[end](**settings)
    model.init_weights()
    nn.init.zeros_(model.rpn_head.rpn_reg.weight)  # proposals are anchors, which have an area
    return model.eval()


def predicting(networks: list[Any], size: Size, *, device: torch.device, warmup: int, timed: int) -> tuple[str, float]:
    """Peak memory and speed of these networks on one photo after another, as cells of the table; seconds a photo."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (*size.hw, 3)).astype(np.uint8) for _ in range(warmup + timed)]
    settings = PredictionSettings(
        short_sides_px=[min(size.hw)],
        max_long_side_px=max(size.hw),
        flip=False,
        min_score=0.0,
        nms_iou=0.5,
        max_instances=100,
    )
    seconds = []
    for network in networks:
        network.to(device)
    with peak_memory(device) as peak:
        for photo in photos:
            start = time.perf_counter()
            for network in networks:
                predict_image(photo, [network], [1.0], settings)
            seconds.append(time.perf_counter() - start)  # what comes back lies in main memory: the GPU has finished
        memory = peak()
    for network in networks:
        network.cpu()
    release()
    photo_s = statistics.median(seconds[warmup:])
    return f"{memory} | {_speed(photo_s)}", photo_s


def _speed(photo_s: float) -> str:
    return f"{1000 * photo_s:.0f} | {1 / photo_s:.2f}"


def optimizer_of(model: Any, *, autocast: str | None, **changes: Any) -> Any:
    """The profile's SGD with these changes, as stage train_e_ups would make it."""
    changes |= {"autocast": autocast, "accumulated_batches": 1}
    settings = load_params(PROFILE).train_e_ups.optimizer.model_dump() | changes
    return build_optim_wrapper(model, optim_wrapper(**settings))


def random_batch(size: Size, *, seed: int) -> dict[str, list[Any]]:
    """Noise with 16 rectangular things on bands of stuff, as the data loader would give it."""
    return collate([random_sample(size.hw, categories(), seed=(seed, index)) for index in range(size.batch_size)])


def categories() -> CategorySet:
    names = [
        {"id": i + 1, "name": f"category {i + 1}", "isthing": int(i < NUM_THINGS)}
        for i in range(NUM_THINGS + NUM_STUFF)
    ]
    return CategorySet.from_json(names, where="benchmark")


if __name__ == "__main__":
    main()
