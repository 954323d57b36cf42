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

import argparse
import itertools
import logging
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.inference.shared_backbone import RememberingBackbone
from antvisionps.models.inference.views import PredictionSettings, predict_image
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.training.optimization import optim_wrapper, save_memory
from antvisionps.params.training import EUpsMember, LwlHtcMember
from antvisionps.params.whole import load_params
from antvisionps.preflight.images import coco_like_categories
from antvisionps.preflight.trial import Batch, calibrate_norms, peak_bytes, random_batch, take_steps
from benchmarks.stock_mmdet import SIZES as SHARED_SIZES
from benchmarks.stock_mmdet import build_htc, build_panoptic_fpn

PROFILE = Path("profiles/coco_paper.yaml")
COCO_LIKE = coco_like_categories()
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
"""What matters most first, for runs that are cut off."""

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


SIZES = (Batch((800, 1088), 1), Batch((1024, 1376), 2))
QUICK = Batch((64, 96), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small size, few steps")
    choices = ("htc", *ORDER, *HTC_ORDER)
    parser.add_argument("--variants", nargs="+", choices=choices, default=[*ORDER, "htc"], help="htc: all of LWL-HTC")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # mmengine tells the initialisation of every tensor
    device = torch.device(arguments.device)
    sizes, steps = ((QUICK,), 2) if arguments.quick else (SIZES, 7)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, TF32 convolutions {torch.backends.cudnn.allow_tf32}", flush=True)
    learned = arguments.quick or HARDEST not in arguments.variants or report_learning(device, sizes[-1])
    print("\n| variant | px | batch | checkpointing | autocast | peak GiB | ms a step | images/s |")
    print("|---|---|---|---|---|---|---|---|")
    variants = [v for name in arguments.variants for v in (HTC_ORDER if name == "htc" else (name,))]
    for variant in variants:
        print_training(variant, sizes, device=device, steps=steps)
    if set(variants) & set(HTC_ORDER):
        print_predicting(sizes, device=device, photos=steps)
    sys.exit(not learned)


def report_learning(device: torch.device, size: Batch) -> bool:
    """Whether 30 steps on one batch lower the loss of the network that the report could not fit."""
    autocast = "bfloat16" if device.type == "cuda" else None
    model = build(HARDEST).to(device)
    save_memory(model, checkpointed_stages=CHECKPOINTED, channels_last=False)
    batch = random_batch(size, COCO_LIKE, seed=0)
    calibrate_norms(model, batch)
    # AdamW, because SGD needs a warm-up of more steps than these on a network whose backbone is random too.
    wrapper = optimizer_of(model, autocast=autocast, kind="adamw", learning_rate=5e-5)
    model.train()
    losses = []
    with peak_bytes(device) as peak:
        for step in range(STEPS_THAT_LOWER_THE_LOSS):
            torch.manual_seed(step)
            losses.append(float(model.train_step(batch, wrapper)["loss"]))
    first, last = losses[0], statistics.mean(losses[-5:])
    print(
        f"{HARDEST}, {min(size.hw)} px, batch {size.images}, checkpointing, autocast {autocast}: loss of the first of "
        f"{STEPS_THAT_LOWER_THE_LOSS} steps {first:.3f}, mean of the last five {last:.3f}; peak GiB {_gib(peak())}",
        flush=True,
    )
    return last < first


def print_training(variant: str, sizes: Sequence[Batch], *, device: torch.device, steps: int) -> None:
    """The table's rows of one variant: every size, with and without checkpointing and autocast."""
    model = build(variant, rois_per_image=16 if sizes == (QUICK,) else None).to(device)
    calibrate_norms(model, random_batch(QUICK, COCO_LIKE, seed=1))
    precisions = (None, "bfloat16") if device.type == "cuda" else (None,)
    for checkpointing in (False, True):
        if checkpointing:
            save_memory(model, checkpointed_stages=CHECKPOINTED, channels_last=False)
        for size, autocast in itertools.product(sizes, precisions):
            # So small a step that the random network stays what it is.
            wrapper = optimizer_of(model, learning_rate=1e-7, autocast=autocast)
            try:
                took = take_steps(model, wrapper, size, COCO_LIKE, num_steps=steps, device=device)
                cells = f"{_gib(took.peak_bytes)} | {_speed(took.step_s, size.images)}"
            except torch.cuda.OutOfMemoryError:
                model.zero_grad(set_to_none=True)
                cells = "out of memory | – | –"
            setting = f"{size.images} | {'yes' if checkpointing else 'no'} | {autocast or 'no'}"
            print(f"| {variant} | {min(size.hw)} | {setting} | {cells} |", flush=True)


def build(variant: str, *, rois_per_image: int | None = None) -> Any:
    """The network of that name in the paper's profile, or mmdet's own, with random weights."""
    torch.manual_seed(0)
    params = load_params(PROFILE)
    if variant in HTC_ORDER:
        model = build_cascade(variant, paper_settings(params.train_lwl_htc.networks["base"], rois_per_image))
    elif variant == STOCK:
        settings = paper_settings(params.train_e_ups.networks["r101_dcn"], rois_per_image)
        settings["backbone"]["deformable"] = False
        model = build_panoptic_fpn(**_sizes(settings))
    else:
        model = build_e_ups(**paper_settings(params.train_e_ups.networks[variant], rois_per_image))
    model.init_weights()
    return model


def _sizes(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("num_things", "num_classes", "test_proposals", *SHARED_SIZES)}


def build_cascade(variant: str, settings: dict[str, Any]) -> Any:
    if variant in HTC_VARIANTS:
        backbone, changes = HTC_VARIANTS[variant]
        settings["backbone"] |= backbone
        return build_lwl_htc(**settings | changes)
    settings["backbone"] |= {"name": STOCK_HTC[variant], "deformable": False}
    return build_htc(**_sizes(settings))


def paper_settings(network: EUpsMember | LwlHtcMember, rois_per_image: int | None) -> dict[str, Any]:
    """What the profile's network is built with, on COCO's classes and without pretrained weights."""
    settings = network.architecture()
    settings["backbone"]["weights"] = None
    settings["rois_per_image"] = rois_per_image or settings["rois_per_image"]
    classes = {"num_things": len(COCO_LIKE.things), "num_classes": len(COCO_LIKE)}
    return settings | classes | {"test_proposals": TEST_PROPOSALS}


def print_predicting(sizes: Sequence[Batch], *, device: torch.device, photos: int) -> None:
    """Both ends on one photo: each alone, one after the other, and on one frozen backbone.

    Random heads find every box: 100 instances a photo, the most there can be.
    """
    print("\n| backbone of both ends | px | passes | peak GiB | ms a photo | photos/s |\n|---|---|---|---|---|---|")
    for name in PREDICTING_BACKBONES:
        proposals = 50 if sizes == (QUICK,) else TEST_PROPOSALS
        ends = [predicting_end(end, name, proposals=proposals) for end in ("e_ups", "lwl_htc")]
        calibrate_norms(ends[0], random_batch(QUICK, COCO_LIKE, seed=1))
        ends[1].backbone.load_state_dict(ends[0].backbone.state_dict())
        for size in sizes:
            row = f"| {name} | {min(size.hw)} |"
            alone = [predict(end, size.hw, device=device, photos=photos) for end in zip(ends)]
            for label, (peak, seconds) in zip(("E-UPS alone", "LWL-HTC alone"), alone, strict=True):
                print(f"{row} {label} | {_gib(peak)} | {_speed(seconds)} |", flush=True)
            print(f"{row} both, separate | – | {_speed(sum(seconds for _, seconds in alone))} |", flush=True)
            own = [end.backbone for end in ends]
            ends[0].backbone = ends[1].backbone = RememberingBackbone(own[0], num_views=1)
            peak, seconds = predict(ends, size.hw, device=device, photos=photos)
            ends[0].backbone, ends[1].backbone = own
            print(f"{row} both, one backbone | {_gib(peak)} | {_speed(seconds)} |", flush=True)


def predicting_end(end: str, backbone: str, *, proposals: int) -> Any:
    """An end of the profile on a plain ResNet of random weights."""
    params = load_params(PROFILE)
    networks = {"e_ups": params.train_e_ups.networks["r50"], "lwl_htc": params.train_lwl_htc.networks["base"]}
    settings = paper_settings(networks[end], None)
    settings["backbone"] |= {"name": backbone, "deformable": False}
    settings["test_proposals"] = proposals
    torch.manual_seed(0)
    model = {"e_ups": build_e_ups, "lwl_htc": build_lwl_htc}[end](**settings)
    model.init_weights()
    nn.init.zeros_(model.rpn_head.rpn_reg.weight)  # proposals are anchors, which have an area
    return model.eval()


def predict(
    networks: Sequence[Any], hw: tuple[int, int], *, device: torch.device, photos: int
) -> tuple[int | None, float]:
    """Peak memory of these networks on one photo after another, and the least seconds a photo."""
    settings = PredictionSettings(
        short_sides_px=[min(hw)], max_long_side_px=max(hw), flip=False, min_score=0.0, nms_iou=0.5, max_instances=100
    )
    seconds = []
    for network in networks:
        network.to(device)
    with peak_bytes(device) as peak:
        for seed in range(photos):
            photo = np.random.default_rng(seed).integers(0, 255, (*hw, 3)).astype(np.uint8)
            start = time.perf_counter()
            for network in networks:
                predict_image(photo, [network], [1.0], settings)
            seconds.append(time.perf_counter() - start)  # what comes back lies in main memory: the GPU has finished
        reached = peak()
    for network in networks:
        network.cpu()
    return reached, min(seconds)


def _gib(num_bytes: int | None) -> str:
    return "–" if num_bytes is None else f"{num_bytes / 2**30:.2f}"


def _speed(seconds: float, images: int = 1) -> str:
    return f"{1000 * seconds:.0f} | {images / seconds:.2f}"


def optimizer_of(model: Any, *, autocast: str | None, **changes: Any) -> Any:
    """The profile's SGD with these changes, as stage train_e_ups would make it."""
    changes |= {"autocast": autocast, "accumulated_batches": 1}
    settings = load_params(PROFILE).train_e_ups.optimizer.model_dump() | changes
    return build_optim_wrapper(model, optim_wrapper(**settings))


if __name__ == "__main__":
    main()
