"""From the networks of ends to their filled caches."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import barrier, get_dist_info

from antvisionps.core.atomic import atomic_folder, sole_writer, unfinished
from antvisionps.core.progress import progress
from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.inference.predict_photo import predict_photo
from antvisionps.models.inference.views import PredictionSettings
from antvisionps.models.training.run_digest import run_digest
from antvisionps.models.training.weights import weights_sha256
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage, given_ids
from antvisionps.predictions.blocks import is_whole, merge_blocks
from antvisionps.predictions.cache_file import CacheReader, CacheWriter
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter

IMAGES_PER_BLOCK = 8
"""What an interruption costs each process at most."""


def fill_caches(
    ends: Mapping[str, EndNetworks],
    splits: Mapping[str, PanopticDataset],
    settings: PredictionSettings,
    *,
    dataset_fingerprint: str,
    work_dir: Path,
    predictions_dir: Path,
) -> None:
    """Predicts every image of the splits into `predictions_dir`/end/split. An end's folder is written whole or not at
    all; the ends see an image one after another.

    An end of semantics alone gets no file of instances, which is how readers know. Images are predicted in blocks, of
    which several processes take their shares, and which the first then merges: the files are the same for any number of
    processes. Blocks that an interrupted run of the same networks, settings and code left in `work_dir` are kept.
    """
    rank, _ = get_dist_info()
    weights = {end: weights_sha256(list(chain.from_iterable(networks.folders))) for end, networks in ends.items()}
    caches: dict[str, list[_Cache]] = {split: [] for split in splits}
    for split, dataset in splits.items():
        ids = given_ids(dataset.images)
        for end, networks in ends.items():
            header = CacheHeader(end, split, dataset_fingerprint, dataset.categories, weights[end], ids)
            caches[split].append(_Cache(networks, header))
    run_dir = work_dir / _digest_of_run(caches, settings)
    blocks = {split: _blocks(dataset.images, run_dir / split) for split, dataset in splits.items()}
    with ExitStack() as locked:
        if rank == 0:
            locked.enter_context(sole_writer(run_dir))
        with ExitStack() as folders:
            if rank == 0:
                for end in ends:
                    folders.enter_context(atomic_folder(predictions_dir / end))
            barrier()
            for split, dataset in splits.items():
                _predict_blocks(dataset, caches[split], settings, blocks[split])
            barrier()
            if rank == 0:
                for split in splits:
                    _merge_blocks(caches[split], blocks[split], predictions_dir)
        if rank == 0:
            shutil.rmtree(run_dir)


@dataclass(frozen=True)
class _Cache:
    """The networks that predict, and what stands in the header of their cache."""

    networks: EndNetworks
    header: CacheHeader

    @property
    def files(self) -> dict[str, tuple[type[CacheReader[Any]], Callable[[Path, CacheHeader], CacheWriter[Any]]]]:
        """The names of its files, and what reads and writes each."""
        files: dict[str, Any] = {SEMANTIC_FILE: (SemanticReader, SemanticWriter)}
        if self.networks.has_instances:
            files[INSTANCES_FILE] = (InstancesReader, InstancesWriter)
        return files


def _digest_of_run(caches: Mapping[str, Sequence[_Cache]], settings: PredictionSettings) -> str:
    of_split = {
        split: [[one.header.to_metadata(), list(one.networks.weights), one.networks.max_proposals] for one in ends]
        for split, ends in caches.items()
    }
    return run_digest([of_split, asdict(settings)])


@dataclass(frozen=True)
class _Block:
    """Some images, and the folder that keeps what the ends say of them."""

    folder: Path
    images: Sequence[PanopticImage]

    @property
    def image_ids(self) -> list[int]:
        return [image.image_id for image in self.images]

    def path(self, cache: _Cache, file_name: str) -> Path:
        return self.folder / cache.header.end / file_name

    def is_whole(self, caches: Sequence[_Cache]) -> bool:
        return all(
            is_whole(self.path(cache, name), reader, header=cache.header, image_ids=self.image_ids)
            for cache in caches
            for name, (reader, _) in cache.files.items()
        )


def _blocks(images: Sequence[PanopticImage], folder: Path) -> list[_Block]:
    """All images of the split, in ascending id, so that every process has some."""
    _, processes = get_dist_info()
    size = max(1, min(IMAGES_PER_BLOCK, math.ceil(len(images) / processes)))
    return [_Block(folder / str(first), images[first : first + size]) for first in range(0, len(images), size)]


def _predict_blocks(
    dataset: PanopticDataset, caches: Sequence[_Cache], settings: PredictionSettings, blocks: Sequence[_Block]
) -> None:
    """This process's share of the blocks, every `processes`-th, but for those that are there."""
    rank, processes = get_dist_info()
    own = blocks[rank::processes]
    left = [block for block in own if not block.is_whole(caches)]
    total, missing = (sum(len(block.images) for block in some) for some in (own, left))
    description = f"predict {', '.join(cache.header.end for cache in caches)} {caches[0].header.split}"
    if processes > 1:
        description += f", process 1 of {processes}"
    with progress(description=description, total=total, initial=total - missing, unit="image", disable=rank > 0) as bar:
        for block in left:
            with ExitStack() as opened:
                fillers = [opened.enter_context(_open_filler(cache, settings, block)) for cache in caches]
                for image in block.images:
                    photo = dataset.load_photo(image)
                    for fill in fillers:
                        fill(photo, image.image_id)
                    bar.update()


def _merge_blocks(caches: Sequence[_Cache], blocks: Sequence[_Block], predictions_dir: Path) -> None:
    for cache in caches:
        folder = unfinished(predictions_dir / cache.header.end) / cache.header.split
        for name, (reader, writer) in cache.files.items():
            with writer(folder / name, cache.header) as whole:
                merge_blocks({block.path(cache, name): block.image_ids for block in blocks}, reader, whole)


@contextmanager
def _open_filler(
    cache: _Cache, settings: PredictionSettings, block: _Block
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Yields what predicts one photo, of that image id, into the cache's files of the block."""
    categories = cache.header.categories
    with ExitStack() as opened:
        writers = {
            name: opened.enter_context(writer(block.path(cache, name), cache.header))
            for name, (_, writer) in cache.files.items()
        }

        def fill(photo: np.ndarray, image_id: int) -> None:
            found, classes = predict_photo(photo, cache.networks, settings, image_id=image_id, categories=categories)
            writers[SEMANTIC_FILE].write(classes)
            if found is not None:
                writers[INSTANCES_FILE].write(found)

        yield fill
