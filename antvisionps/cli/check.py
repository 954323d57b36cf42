"""`antvisionps check …`: a dry run of some params, before a long one."""

from __future__ import annotations

import argparse
import shutil
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antvisionps.cli.extras import needs_extra
from antvisionps.core.errors import AntVisionPSError

if TYPE_CHECKING:
    import torch

    from antvisionps.params.whole import Params
    from antvisionps.preflight.doctor import Finding
    from antvisionps.preflight.estimates import DiskNeed
    from antvisionps.preflight.images import ImageSet
    from antvisionps.preflight.networks import TrainedNetwork
    from antvisionps.preflight.trial import NetworkTrial

DESCRIPTION = (
    "A dry run before a long one. Every network that the params train is built at its full width, takes a training "
    "step and predicts a picture; data, pretrained weights and the disk are looked at; disk, memory and time of the "
    "run are estimated. On a GPU the steps have the run's own picture size, so that memory and time are measured. "
    "Downloads nothing, writes nothing. Exit status 1 where the run would fail."
)

SMALL_PIXELS = 200_000
"""Of a batch: up to here a CPU takes the run's own steps in seconds."""

CPU_SIZES = ((64, 96), (64, 96), (128, 192))
"""What it takes instead: a step to make the optimiser's state, then two sizes for memory to be drawn as a line."""

CPU_ROIS = 16
"""Regions an image then: their share of the memory does not grow with the picture."""

GPU_STEPS, CPU_STEPS = 4, 1
TIMEOUT_S = 10.0
WIDTH_OF_A_FILE = 160
"""Columns of the table where it is printed to a file or a pipe."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], project_root: Path) -> None:
    parser = commands.add_parser("check", help="a dry run of some params, before a long one", description=DESCRIPTION)
    parser.add_argument("params", type=Path, nargs="?", default=Path("params.yaml"), help="default: %(default)s")
    parser.set_defaults(run=lambda args: _check(args, project_root))


def _check(args: argparse.Namespace, project_root: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from antvisionps.cli.findings import report
    from antvisionps.params.whole import load_params
    from antvisionps.preflight.estimates import told_bytes
    from antvisionps.preflight.images import find_images
    from antvisionps.preflight.networks import networks_of

    params = load_params(args.params)
    images = find_images(params.prepare)
    networks = list(networks_of(params))
    with needs_extra("models"):
        from antvisionps.preflight.lines import image_line, network_lines

        trials, findings = _try_all(networks, params, images)
    needs = _disk_needs(trials, params, images)
    table = Table(title=f"What {args.params} needs", title_justify="left")
    for column in ("what", "how much", "how that is known"):
        table.add_column(column, overflow="fold")
    for estimate in (image_line(images), *network_lines(networks, trials, images)):
        table.add_row(estimate.quantity, estimate.amount, estimate.source)
    for need in needs:
        table.add_row(f"disk: {need.what}", told_bytes(need.num_bytes), need.source)
    Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE).print(table)
    data = _data_findings(params)
    report([*data, *_weights_findings(networks), *findings, *_disk_finding(needs, project_root)])


def _try_all(
    networks: Sequence[TrainedNetwork], params: Params, images: ImageSet
) -> tuple[dict[str, NetworkTrial], list[Finding]]:
    """What came of each network by name, without those that failed; a finding for each."""
    from antvisionps.core.progress import progress
    from antvisionps.models.training.device import select_device
    from antvisionps.preflight.doctor import Finding

    device = select_device(params.runtime.device, cpu_threads=params.runtime.cpu_threads)
    trials, findings = {}, []
    bar = progress(networks, description="try networks", total=len(networks), unit="network")
    for network in bar:
        bar.set_postfix_str(network.name)
        try:
            trials[network.name] = _try(network, params, images, device)
            findings.append(Finding("ok", network.name, f"builds, learns and predicts on {device.type}"))
        except (AntVisionPSError, RuntimeError, ValueError) as error:  # RuntimeError: whatever torch finds, memory too
            remedy = f"change {network.end}'s network, or its memory and schedule, in the params"
            findings.append(Finding("wrong", network.name, f"fails: {error}", remedy))
    if device.type == "cpu" and any(network.training.optimizer.autocast for network in networks):
        findings.append(
            Finding("note", "optimizer.autocast", "left out here: it needs a GPU, and so does a run with these params")
        )
    return trials, findings


def _try(network: TrainedNetwork, params: Params, images: ImageSet, device: torch.device) -> NetworkTrial:
    from antvisionps.preflight.lines import full_batch
    from antvisionps.preflight.trial import Batch, try_network

    full = full_batch(network, images)
    training = network.training
    settings, batches = network.settings, [full]
    if not (takes_full_steps := device.type == "cuda" or full.pixels <= SMALL_PIXELS):
        # Batch norm that learns needs two images.
        batches = [Batch(hw, min(2, training.schedule.batch_size)) for hw in CPU_SIZES]
        if "rois_per_image" in settings:
            settings = settings | {"rois_per_image": min(CPU_ROIS, settings["rois_per_image"])}
    return try_network(
        end=network.end,
        network=settings,
        categories=images.categories,
        optimizer=training.optimizer.model_dump(),
        memory=training.memory.model_dump(),
        predicting=params.predict.keyword_arguments(),
        max_proposals=params.predict.max_proposals,
        batches=batches,
        num_steps=GPU_STEPS if takes_full_steps else CPU_STEPS,
        device=device,
    )


def _disk_needs(trials: dict[str, NetworkTrial], params: Params, images: ImageSet) -> list[DiskNeed]:
    from antvisionps.preflight.estimates import disk_needs
    from antvisionps.preflight.images import download_bytes, missing_data

    downloads = any("download coco" in (finding.remedy or "") for finding in missing_data(params.prepare))
    return disk_needs(
        weights_bytes=[trial.weights_bytes for trial in trials.values()] or [0],
        checkpoint_bytes=[trial.checkpoint_bytes for trial in trials.values()] or [0],
        ends=len(params.ends),
        images=images.predicted,
        hw=images.hw,
        download_bytes=download_bytes() if downloads else 0,
    )


def _data_findings(params: Params) -> list[Finding]:
    from antvisionps.preflight.doctor import Finding
    from antvisionps.preflight.images import missing_data

    missing = list(missing_data(params.prepare))
    return missing or [Finding("ok", "data", f"{params.prepare.source}: what prepare reads is there")]


def _weights_findings(networks: Sequence[TrainedNetwork]) -> Iterator[Finding]:
    from antvisionps.preflight.doctor import Finding
    from antvisionps.preflight.pretrained import imagenet_weights

    for backbone in dict.fromkeys(network.backbone for network in networks if network.backbone):
        subject = f"weights of {backbone}"
        try:
            weights = imagenet_weights(backbone)
        except AntVisionPSError as error:
            yield Finding("wrong", subject, str(error))
            continue
        if weights.file is not None:
            yield Finding("ok", subject, f"{weights.file}")
        elif problem := _unreachable(weights.url):
            remedy = "connect this machine, or fetch the file elsewhere and give its path as the backbone's `weights`"
            yield Finding("wrong", subject, f"not here, and {weights.url} cannot be reached: {problem}", remedy)
        else:
            yield Finding("note", subject, f"not here; the first training downloads {weights.url}")


def _unreachable(url: str) -> str:
    """Why the server does not have it; nothing is downloaded."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return ""
    except (OSError, ValueError) as error:
        return str(error)


def _disk_finding(needs: Sequence[DiskNeed], project_root: Path) -> Iterator[Finding]:
    from antvisionps.preflight.doctor import Finding
    from antvisionps.preflight.estimates import told_bytes

    needed, free = sum(need.num_bytes for need in needs), shutil.disk_usage(project_root).free
    told = f"{told_bytes(needed)} needed in all, {told_bytes(free)} free"
    if needed > free:
        yield Finding("wrong", "disk", told, "free some, or work on a larger disk")
    else:
        yield Finding("ok", "disk", told)
