"""What `Writer` wrote, into the cache of a split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.progress import progress
from antvisionps.interchange.semantic_files import refuse_other_size
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.predictions.cache_file import CacheReader, CacheWriter
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, REMEDY, SEMANTIC_FILE, VERSION_REMEDY, CacheHeader
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter

KINDS: dict[str, tuple[Callable[[Path], CacheReader[Any]], Callable[[Path, CacheHeader], CacheWriter[Any]]]] = {
    INSTANCES_FILE: (InstancesReader, InstancesWriter),
    SEMANTIC_FILE: (SemanticReader, SemanticWriter),
}
"""File → its reader and writer."""


def import_written(
    source: Path, folder: Path, dataset: PanopticDataset, header: CacheHeader, *, first: int | None = None
) -> None:
    """Copies the files, or so many `first` images, to `folder` under another header. Raises PredictionsError on a
    damaged file, and on one of other images, sizes or categories than the split's."""
    for name, (open_file, open_copy) in KINDS.items():
        if not (source / name).exists():
            continue
        try:
            with open_file(source / name) as reader, open_copy(folder / name, header) as writer:
                _refuse_other_split(reader, dataset)
                part = dataset.images[:first]
                images = progress(islice(reader, first), description=name, total=len(part), unit="image")
                for written, image in zip(images, part, strict=True):
                    refuse_other_size(source / name, image, (written.height, written.width))
                    writer.write(written)
        except CacheError as error:
            told = str(error).replace(VERSION_REMEDY, "write it again").replace(REMEDY, "write it again")
            raise PredictionsError(told) from error


def _refuse_other_split(reader: CacheReader[Any], dataset: PanopticDataset) -> None:
    written = [reader.header.source_id(image_id) for image_id in reader.image_ids]
    expected = {image.source_id: image.image_id for image in dataset.images}
    if missing := expected.keys() - set(written):
        raise PredictionsError(f"{reader.path}: image {_first(missing)} is missing; every image of the split is needed")
    if surplus := set(written) - expected.keys():
        raise PredictionsError(
            f"{reader.path}: image {_first(surplus)} is not in this split; write the split's images only"
        )
    if reader.header.categories != dataset.categories:
        raise PredictionsError(f"{reader.path}: other categories than the data set's; write it again with its JSON")


def _first(image_ids: set[Any]) -> Any:
    return min(image_ids, key=str)
