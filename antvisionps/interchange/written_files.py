"""What `Writer` wrote, image by image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.semantic_files import refuse_other_size
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.predictions.cache_file import CacheReader
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, REMEDY, SEMANTIC_FILE, VERSION_REMEDY
from antvisionps.predictions.semantic import SemanticReader

READER_OF: dict[str, type[InstancesReader] | type[SemanticReader]] = {
    INSTANCES_FILE: InstancesReader,
    SEMANTIC_FILE: SemanticReader,
}


def read_written(path: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[Any]:
    """Every image of the split, in ascending image_id; `labels` were told to `Writer`. Raises PredictionsError on a
    damaged file, and on one of other images, sizes or categories than the split's."""
    try:
        with READER_OF[path.name](path) as reader:
            _refuse_other_split(reader, dataset)
            for written, image in zip(reader, dataset.images, strict=True):
                refuse_other_size(path, image, (written.height, written.width))
                yield written
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
