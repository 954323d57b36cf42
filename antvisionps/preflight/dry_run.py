"""What `antvisionps check` does: tries every network of some params, and looks at data, weights and disk."""

import shutil
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from antvisionps.core.errors import AntVisionPSError, DataError, ParamsError
from antvisionps.core.progress import progress
from antvisionps.models.inference.shared_backbone import REMEDY as SHARED_REMEDY
from antvisionps.models.inference.shared_backbone import WHOLLY_FROZEN
from antvisionps.models.training.device import select_device
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.slices import read_slices
from antvisionps.params.prediction import SharedBackbone
from antvisionps.params.whole import SEMANTIC_ENDS, Params
from antvisionps.pipeline.settings import by_category_id
from antvisionps.preflight.doctor import Finding
from antvisionps.preflight.estimates import Estimate, disk_needs, format_bytes, full_batch, image_line, network_lines
from antvisionps.preflight.images import ImageSet, download_bytes, look_at_data
from antvisionps.preflight.networks import TrainedNetwork, imagenet_weights, networks_of
from antvisionps.preflight.trial import Batch, NetworkTrial, try_network

SMALL_PIXELS = 200_000
"""Of a batch: up to here a CPU takes the run's own steps in seconds."""

CPU_SIZES = ((64, 96), (64, 96), (128, 192))
"""What it takes instead: a step to make the optimiser's state, then two sizes for memory to be drawn as a line."""

CPU_ROIS = 16
"""Regions an image then: their share of the memory does not grow with the picture."""

GPU_STEPS, CPU_STEPS = 4, 1
TIMEOUT_S = 10.0

SHARED_MEMORY = Path("/dev/shm")
SAMPLE_BYTES_PER_PX = 4
"""Of what loader processes hand over through it: colours and class."""

PREFETCHED_BATCHES = 2
"""Of each loader process: torch's default."""


def dry_run(params: Params, *, disk: Path) -> tuple[list[Estimate], list[Finding]]:
    """What the run needs, and what is right or wrong with it; `disk` is a folder of the disk that the run writes to."""
    images, data = look_at_data(params.prepare)
    of_kind = {"thing": images.categories.things, "stuff": images.categories.stuff}
    missing = [kind for kind, found in of_kind.items() if not found] if params.ends else []
    if missing:
        remedy = "name stuff with --stuff of `antvisionps convert`, or set ends to []"
        data.append(Finding("wrong", "data", f"no {missing[0]} category, and the ends predict both", remedy))
    is_read = all(one.severity != "wrong" for one in data)  # else the categories are only as many
    data += _late_findings(params, images.categories if is_read else None)
    networks = [] if missing else list(networks_of(params))
    trials, tried = _try_all(networks, params, images)
    download = download_bytes() if any("download coco" in (one.remedy or "") for one in data) else 0
    needs = disk_needs(trials.values(), images, ends=len(params.ends), download_bytes=download)
    estimates = [image_line(images), *network_lines(networks, trials, images)]
    estimates += [Estimate(f"disk: {what}", format_bytes(num_bytes), source) for what, num_bytes, source in needs]
    found = [*data, *_batch_findings(networks), *_weights_findings(networks), *tried]
    found.append(_disk_finding(sum(num_bytes for _, num_bytes, _ in needs), disk))
    found += _shared_memory_findings(networks, params.runtime.loader_workers, images)
    return estimates, found


def _late_findings(params: Params, categories: CategorySet | None) -> Iterator[Finding]:
    """What stops a stage after the trainings; without categories as far as it needs none."""
    if set(params.all_ends) <= set(SEMANTIC_ENDS):
        problem = f"none of {list(params.all_ends)} has instances, and without instances there is no panoptic map"
        yield Finding("wrong", "ends", problem, "add an end that predicts instances")
    for pair in params.predict.shared_backbone:
        if not _can_share(pair, params):
            problem = f"{pair.first} and {pair.second} have no frozen backbone in common"
            yield Finding("wrong", "predict.shared_backbone", problem, SHARED_REMEDY)
    if params.score.slices:
        try:
            read_slices(Path(params.score.slices), [])
        except DataError as error:
            yield Finding("wrong", "score.slices", str(error), "put the file there, or set score.slices to null")
    fuse = params.fuse
    if categories and not fuse.calibrated and any(fuse.method_of(system) != "auto" for system in fuse.systems):
        try:
            by_category_id(fuse.min_scores, categories, place="fuse.min_scores")
        except ParamsError as error:
            yield Finding("wrong", "fuse", str(error), "mend section fuse of the params")


def _can_share(pair: SharedBackbone, params: Params) -> bool:
    """Whether networks of both ends have a backbone of the same settings, and all that have are wholly frozen."""
    first, second = (
        [network.settings["backbone"] | {"weights": None} for network in networks_of(params) if network.end == end]
        for end in (pair.first, pair.second)
    )
    common = [backbone for backbone in first if backbone in second]
    return bool(common) and all(WHOLLY_FROZEN.items() <= backbone.items() for backbone in common)


def _try_all(
    networks: Sequence[TrainedNetwork], params: Params, images: ImageSet
) -> tuple[Mapping[str, NetworkTrial], list[Finding]]:
    """What came of each network by name, without those that failed; a finding for each."""
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
    full = full_batch(network, images)
    batches = [full]
    if not (takes_full_steps := device.type == "cuda" or full.pixels <= SMALL_PIXELS):
        # Batch norm that learns needs two images.
        batches = [Batch(hw, min(2, network.training.schedule.batch_size)) for hw in CPU_SIZES]
        if "rois_per_image" in network.settings:
            rois = min(CPU_ROIS, network.settings["rois_per_image"])
            network = replace(network, settings=network.settings | {"rois_per_image": rois})
    return try_network(
        network,
        params.predict,
        categories=images.categories,
        batches=batches,
        num_steps=GPU_STEPS if takes_full_steps else CPU_STEPS,
        device=device,
    )


def _batch_findings(networks: Sequence[TrainedNetwork]) -> Iterator[Finding]:
    sizes = {network.end: (network.training.schedule.batch_size, network.processes) for network in networks}
    for end, (batch_size, processes) in sizes.items():
        if batch_size % processes:
            problem = f"{batch_size} images, which {processes} processes cannot share equally"
            remedy = f"make it a multiple of {processes}, or change runtime.processes"
            yield Finding("wrong", f"train_{end}.schedule.batch_size", problem, remedy)


def _weights_findings(networks: Sequence[TrainedNetwork]) -> Iterator[Finding]:
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


def _shared_memory_findings(
    networks: Sequence[TrainedNetwork], loader_workers: int, images: ImageSet
) -> Iterator[Finding]:
    """Loader processes of all processes of this machine, of the network with the largest batches."""
    if not (networks and loader_workers and SHARED_MEMORY.is_dir()):
        return
    pixels = max(full_batch(network, images).pixels for network in networks)
    needed = pixels * SAMPLE_BYTES_PER_PX * PREFETCHED_BATCHES * loader_workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        message = f"loader processes need {format_bytes(needed)} in {SHARED_MEMORY}, {format_bytes(free)} free"
        remedy = "start the container with a larger --shm-size, or lower runtime.loader_workers"
        yield Finding("wrong", "shared memory", message, remedy)


def _disk_finding(needed: int, disk: Path) -> Finding:
    free = shutil.disk_usage(disk).free
    message = f"{format_bytes(needed)} needed in all, {format_bytes(free)} free"
    if needed > free:
        return Finding("wrong", "disk", message, "free some, or work on a larger disk")
    return Finding("ok", "disk", message)
