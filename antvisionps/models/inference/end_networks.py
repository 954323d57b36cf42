"""From the trained networks of an end to its filled cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.model import BaseModule

from antvisionps.core.errors import ModelError
from antvisionps.core.progress import progress
from antvisionps.models.blocks.two_stage import BoxScorer
from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.hrnet_aspp.network import build_hrnet_aspp
from antvisionps.models.inference.views import (
    ImagePrediction,
    SemanticPrediction,
    paste_mask,
    predict_image,
    predict_semantics,
)
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.training.weights import load_weights, read_network, weights_sha256
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.cache_file import CacheReader, CacheWriter
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.parts import merge_parts, part_path, remove_parts
from antvisionps.predictions.schema import (
    INSTANCES_FILE,
    SEMANTIC_FILE,
    CacheHeader,
)
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader, SemanticWriter

BUILDERS: dict[str, Callable[..., BaseModule]] = {
    "e_ups": build_e_ups,
    "lwl_htc": build_lwl_htc,
    "hrnet_aspp": build_hrnet_aspp,
}
"""What each end's networks are built with."""


def open_networks(
    folders: Sequence[Path], *, categories: CategorySet, max_proposals: int, device: torch.device
) -> list[BaseModule]:
    """The trained networks in these folders, in evaluation mode on `device`.

    Raises ModelError where the weights are of another architecture, or of other categories than `categories`.
    """
    networks = []
    for folder in folders:
        described = read_network(folder)
        if described["categories"] != categories.to_json():
            raise ModelError(f"{folder}: trained on other categories than the data set has now; train it again")
        network = _build(described, test_proposals=max_proposals)
        load_weights(folder, network)
        networks.append(network.to(device).eval())
    return networks


@dataclass(frozen=True)
class TrainedEnd:
    """An end's networks with the weight of each, the folders that they were opened from, and the cache to fill."""

    networks: Sequence[Any]
    weights: Sequence[float]
    folders: Sequence[Path]
    header: CacheHeader
    out_dir: Path


def open_end(
    dataset: PanopticDataset,
    *,
    end: str,
    split: str,
    dataset_fingerprint: str,
    member_weights: Mapping[str, float],
    max_proposals: int,
    device: torch.device,
    models_dir: Path,
    out_dir: Path,
) -> TrainedEnd:
    """The trained members of an end, each from its folder of `models_dir`; raises what `open_networks` does."""
    folders = [models_dir / member for member in member_weights]
    networks = open_networks(folders, categories=dataset.categories, max_proposals=max_proposals, device=device)
    header = CacheHeader(
        end=end,
        split=split,
        dataset_fingerprint=dataset_fingerprint,
        categories=dataset.categories,
        weights_sha256=weights_sha256(folders),
    )
    return TrainedEnd(networks, list(member_weights.values()), folders, header, out_dir)


def fill_cache(
    dataset: PanopticDataset,
    networks: Sequence[Any],
    weights: Sequence[float],
    *,
    header: CacheHeader,
    out_dir: Path,
    **settings: Any,
) -> None:
    """Predicts every image of a split and writes both files of the cache; `settings` are `predict_image`'s."""
    fill_caches(dataset, [TrainedEnd(networks, weights, [], header, out_dir)], **settings)


def fill_caches(dataset: PanopticDataset, ends: Sequence[TrainedEnd], **settings: Any) -> None:
    """The same for several ends, which see each image one after another.

    An end of semantics alone gets no file of instances, which is how readers know. Of several processes each predicts
    its share of the images and writes parts, which the first then merges; the files are those of one process.
    """
    rank, processes = get_dist_info()
    if processes == 1:
        _predict_images(dataset, ends, settings)
        return
    with ExitStack() as parts:
        if rank == 0:
            for _, writer in _files(ends):
                remove_parts(writer.path)
                parts.callback(remove_parts, writer.path)
        barrier()
        _predict_images(dataset, ends, settings)
        barrier()
        if rank == 0:
            for reader, writer in _files(ends):
                paths = [part_path(writer.path, number) for number in range(processes)]
                with writer:
                    merge_parts(paths, reader, writer, [image.image_id for image in dataset.images])


def _predict_images(dataset: PanopticDataset, ends: Sequence[TrainedEnd], settings: Mapping[str, Any]) -> None:
    """This process's share of the images, every `processes`-th, into the caches or its parts of them."""
    rank, processes = get_dist_info()
    images = dataset.images[rank::processes]
    description = f"predict {', '.join(end.header.end for end in ends)} {ends[0].header.split}"
    if processes > 1:
        description += f", process 1 of {processes}"
    with ExitStack() as opened:
        fillers = [opened.enter_context(_open_filler(dataset.categories, end, settings)) for end in ends]
        for image in progress(images, description=description, total=len(images), unit="image", disable=rank > 0):
            photo = dataset.load_photo(image)
            for fill in fillers:
                fill(photo, image.image_id)


def _files(ends: Sequence[TrainedEnd]) -> Iterator[tuple[type[CacheReader[Any]], CacheWriter[Any]]]:
    """What reads and what writes each cache file, the latter not opened yet."""
    for end in ends:
        yield SemanticReader, SemanticWriter(end.out_dir / SEMANTIC_FILE, end.header)
        if has_instances(end.networks):
            yield InstancesReader, InstancesWriter(end.out_dir / INSTANCES_FILE, end.header)


@contextmanager
def _open_filler(
    categories: CategorySet, end: TrainedEnd, settings: Mapping[str, Any]
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Yields what predicts one photo, of that image id, into the end's cache, or this process's part of it."""
    rank, processes = get_dist_info()
    with ExitStack() as files:
        paths = [end.out_dir / name for name in (SEMANTIC_FILE, INSTANCES_FILE)]
        if processes > 1:
            paths = [part_path(path, rank) for path in paths]
        semantics = files.enter_context(SemanticWriter(paths[0], end.header))
        instances = InstancesWriter(paths[1], end.header)
        if has_instances(end.networks):
            files.enter_context(instances)

        def fill(photo: np.ndarray, image_id: int) -> None:
            found, classes = predict_photo(
                photo, end.networks, end.weights, image_id=image_id, categories=categories, **settings
            )
            semantics.write(classes)
            if found is not None:
                instances.write(found)

        yield fill


def has_instances(networks: Sequence[Any]) -> bool:
    """Whether an end of these networks predicts instances beside its semantics."""
    return isinstance(networks[0], BoxScorer)


def predict_photo(
    photo: np.ndarray,
    networks: Sequence[Any],
    weights: Sequence[float],
    *,
    image_id: int,
    categories: CategorySet,
    **settings: Any,
) -> tuple[ImageInstances | None, ImageSemantics]:
    """What the cache holds of an (H, W, 3) uint8 RGB photo; no instances from an end of semantics alone.

    `settings` are `predict_image`'s.
    """
    named: Any = {"image_id": image_id, "categories": categories}
    if not has_instances(networks):
        sizes = {name: settings[name] for name in ("short_sides_px", "max_long_side_px", "flip")}
        return None, to_semantics(predict_semantics(photo, networks, weights, **sizes), **named)
    prediction = predict_image(photo, networks, weights, **settings)
    return to_instances(prediction, **named), to_semantics(prediction, **named)


def to_instances(prediction: ImagePrediction, *, image_id: int, categories: CategorySet) -> ImageInstances:
    """The instances as the cache holds them; those whose mask has no pixel are left out."""
    rles, kept = [], []
    for index, (probs, box) in enumerate(zip(prediction.mask_probs, prediction.boxes_xyxy, strict=True)):
        mask = paste_mask(probs, box, prediction.image_hw)
        if mask.any():
            rles.extend(encode_masks(mask[None]))
            kept.append(index)
    boxes = prediction.boxes_xyxy[kept]
    return ImageInstances(
        image_id=image_id,
        height=prediction.image_hw[0],
        width=prediction.image_hw[1],
        category_ids=categories.category_ids[prediction.class_indices[kept]],
        scores=prediction.scores[kept].astype(np.float32),
        boxes_xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32),
        rles=rles,
        mask_probs=np.rint(prediction.mask_probs[kept] * 255).astype(np.uint8),
    )


def to_semantics(prediction: SemanticPrediction, *, image_id: int, categories: CategorySet) -> ImageSemantics:
    """The semantic probabilities as the cache holds them."""
    return ImageSemantics.from_probs(
        image_id=image_id,
        height=prediction.image_hw[0],
        width=prediction.image_hw[1],
        input_height=prediction.input_hw[0],
        input_width=prediction.input_hw[1],
        stride=prediction.semantic_stride,
        category_ids=categories.category_ids,
        probs=prediction.semantic_probs,
    )


def _build(described: Mapping[str, Any], *, test_proposals: int) -> BaseModule:
    try:
        builder = BUILDERS[described["end"]]
    except KeyError:
        raise ModelError(
            f"no network is known for end {described.get('end')}; expected one of {list(BUILDERS)}"
        ) from None
    return builder(
        num_things=described["num_things"],
        num_classes=described["num_classes"],
        test_proposals=test_proposals,
        **described["network"],
    )
