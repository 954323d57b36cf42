"""From the networks of ends to their filled caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info

from antvisionps.core.progress import progress
from antvisionps.models.inference.end_networks import EndNetworks, open_networks
from antvisionps.models.inference.predict_photo import predict_photo
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.weights import weights_sha256
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_panoptic import PanopticDataset
from antvisionps.predictions.instances import InstancesWriter, instance_rows
from antvisionps.predictions.parts import PartWriter, merge_parts, part_path, remove_parts
from antvisionps.predictions.schema import (
    INSTANCES_FILE,
    INSTANCES_SCHEMA,
    SEMANTIC_FILE,
    SEMANTIC_SCHEMA,
    CacheHeader,
    CacheWriter,
)
from antvisionps.predictions.semantic import SemanticWriter, semantic_rows

SCHEMAS = (SEMANTIC_SCHEMA, INSTANCES_SCHEMA)
"""Of the two files of a cache; an end of semantics alone has the first."""


@dataclass(frozen=True)
class CacheToFill:
    """The networks that predict, what stands in the header of their cache, and its folder."""

    end: EndNetworks
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
) -> CacheToFill:
    """An end's trained members, which fill the cache in `out_dir`; raises what `open_networks` does."""
    opened = open_networks(
        models_dir, member_weights, categories=dataset.categories, max_proposals=max_proposals, device=device
    )
    header = CacheHeader(
        end=end,
        split=split,
        dataset_fingerprint=dataset_fingerprint,
        categories=dataset.categories,
        weights_sha256=weights_sha256(opened.folders),
    )
    return CacheToFill(opened, header, out_dir)


def fill_caches(dataset: PanopticDataset, caches: Sequence[CacheToFill], settings: PredictionSettings) -> None:
    """Predicts every image of a split and writes both files of each cache; the ends see an image one after another.

    An end of semantics alone gets no file of instances, which is how readers know. Of several processes each predicts
    its share of the images and writes parts, which the first then merges; the files are those of one process.
    """
    rank, processes = get_dist_info()
    if processes == 1:
        _predict_images(dataset, caches, settings)
        return
    writers = [writer for cache in caches for writer in _writers(cache)]
    if rank == 0:
        for writer in writers:
            remove_parts(writer.path)
    barrier()
    _predict_images(dataset, caches, settings)
    barrier()
    if rank == 0:
        _merge(writers, processes=processes, num_images=len(dataset.images))


def _predict_images(dataset: PanopticDataset, caches: Sequence[CacheToFill], settings: PredictionSettings) -> None:
    """This process's share of the images, every `processes`-th, into the caches or its parts of them."""
    rank, processes = get_dist_info()
    images = dataset.images[rank::processes]
    description = f"predict {', '.join(cache.header.end for cache in caches)} {caches[0].header.split}"
    if processes > 1:
        description += f", process 1 of {processes}"
    with ExitStack() as opened:
        fillers = [opened.enter_context(_open_filler(dataset.categories, cache, settings)) for cache in caches]
        for image in progress(images, description=description, total=len(images), unit="image", disable=rank > 0):
            photo = dataset.load_photo(image)
            for fill in fillers:
                fill(photo, image.image_id)


def _writers(cache: CacheToFill) -> list[CacheWriter]:
    """Of its semantics and, where it has any, its instances; not opened yet."""
    writers: list[CacheWriter] = [SemanticWriter(cache.out_dir / SEMANTIC_FILE, cache.header)]
    if cache.end.has_instances:
        writers.append(InstancesWriter(cache.out_dir / INSTANCES_FILE, cache.header))
    return writers


def _merge(writers: Sequence[CacheWriter], *, processes: int, num_images: int) -> None:
    with ExitStack() as opened:
        for writer in writers:
            opened.callback(remove_parts, writer.path)
        for writer in writers:
            parts = [part_path(writer.path, rank) for rank in range(processes)]
            merge_parts(parts, opened.enter_context(writer), num_images=num_images)


@contextmanager
def _open_filler(
    categories: CategorySet, cache: CacheToFill, settings: PredictionSettings
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Yields what predicts one photo, of that image id, into the cache, or this process's part of it."""
    rank, processes = get_dist_info()
    writers: list[CacheWriter | PartWriter] = [*_writers(cache)]
    if processes > 1:
        paths = [part_path(writer.path, rank) for writer in writers]
        writers = [PartWriter(path, schema) for path, schema in zip(paths, SCHEMAS, strict=False)]
    with ExitStack() as files:
        for writer in writers:
            files.enter_context(writer)
        semantics, *instances = writers

        def fill(photo: np.ndarray, image_id: int) -> None:
            found, classes = predict_photo(photo, cache.end, settings, image_id=image_id, categories=categories)
            semantics.append(semantic_rows(classes, categories))
            if found is not None:
                instances[0].append(instance_rows(found, categories))

        yield fill
