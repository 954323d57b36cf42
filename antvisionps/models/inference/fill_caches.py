"""From the networks of ends to their filled caches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info

from antvisionps.core.atomic import atomic_folder, unfinished
from antvisionps.core.progress import progress
from antvisionps.models.inference.end_networks import EndNetworks, open_networks
from antvisionps.models.inference.predict_photo import predict_photo
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.weights import weights_sha256
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import given_ids
from antvisionps.predictions.cache_file import CacheReader, CacheWriter
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.parts import merge_parts, part_path
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter


@dataclass(frozen=True)
class CacheToFill:
    """The networks that predict, what stands in the header of their cache, and its folder."""

    end: EndNetworks
    header: CacheHeader
    out_dir: Path

    @property
    def folder(self) -> Path:
        """Where the cache is written, until it is whole."""
        return unfinished(self.out_dir)


def open_end(
    dataset: PanopticDataset,
    *,
    end: str,
    split: str,
    dataset_fingerprint: str,
    member_weights: Mapping[str, float],
    find_problem: Callable[[str, Mapping[str, Any]], str],
    max_proposals: int,
    device: torch.device,
    models_dir: Path,
    out_dir: Path,
) -> CacheToFill:
    """An end's trained members, which fill the cache in `out_dir`; raises what `open_networks` does."""
    opened = open_networks(
        models_dir,
        member_weights,
        end=end,
        find_problem=find_problem,
        categories=dataset.categories,
        max_proposals=max_proposals,
        device=device,
    )
    header = CacheHeader(
        end=end,
        split=split,
        dataset_fingerprint=dataset_fingerprint,
        categories=dataset.categories,
        weights_sha256=weights_sha256(opened.folders),
        given_ids=given_ids(dataset.images),
    )
    return CacheToFill(opened, header, out_dir)


def fill_caches(dataset: PanopticDataset, caches: Sequence[CacheToFill], settings: PredictionSettings) -> None:
    """Predicts every image of a split and writes both files of each cache, whole or not at all; the ends see an image
    one after another.

    An end of semantics alone gets no file of instances, which is how readers know. Of several processes each predicts
    its share of the images and writes parts, which the first then merges; the files are those of one process.
    """
    rank, processes = get_dist_info()
    with ExitStack() as folders:
        if rank == 0:
            for cache in caches:
                folders.enter_context(atomic_folder(cache.out_dir))
        barrier()
        _predict_images(dataset, caches, settings)
        barrier()
        if rank == 0 and processes > 1:
            for reader, writer in _files(caches):
                parts = [part_path(writer.path, number) for number in range(processes)]
                with writer:
                    merge_parts(parts, reader, writer, [image.image_id for image in dataset.images])
                for part in parts:
                    part.unlink()


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


def _files(caches: Sequence[CacheToFill]) -> Iterator[tuple[type[CacheReader[Any]], CacheWriter[Any]]]:
    """What reads and what writes each cache file, the latter not opened yet."""
    for cache in caches:
        yield SemanticReader, SemanticWriter(cache.folder / SEMANTIC_FILE, cache.header)
        if cache.end.has_instances:
            yield InstancesReader, InstancesWriter(cache.folder / INSTANCES_FILE, cache.header)


@contextmanager
def _open_filler(
    categories: CategorySet, cache: CacheToFill, settings: PredictionSettings
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Yields what predicts one photo, of that image id, into the cache, or this process's part of it."""
    rank, processes = get_dist_info()
    paths = [cache.folder / name for name in (SEMANTIC_FILE, INSTANCES_FILE)]
    if processes > 1:
        paths = [part_path(path, rank) for path in paths]
    with ExitStack() as files:
        semantics = files.enter_context(SemanticWriter(paths[0], cache.header))
        instances = InstancesWriter(paths[1], cache.header)
        if cache.end.has_instances:
            files.enter_context(instances)

        def fill(photo: np.ndarray, image_id: int) -> None:
            found, classes = predict_photo(photo, cache.end, settings, image_id=image_id, categories=categories)
            semantics.write(classes)
            if found is not None:
                instances.write(found)

        yield fill
