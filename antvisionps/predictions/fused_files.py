"""What a fused system leaves on disk: a split in the COCO panoptic format, its segments, the rejected candidates."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError, DataError
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset

PANOPTIC_FILE, PANOPTIC_FOLDER = "panoptic.json", "panoptic"


class TableFile(NamedTuple):
    file_name: str
    schema: pa.Schema


SEGMENTS = TableFile(
    "segments.parquet",
    pa.schema(
        [
            ("image_id", pa.int64()),
            ("segment_id", pa.int32()),
            ("category_id", pa.int32()),
            ("area_px", pa.int32()),
            ("score", pa.float32()),
            ("end", pa.string()),
        ]
    ),
)
"""All segments of the maps."""

CANDIDATES = TableFile(
    "candidates.parquet",
    pa.schema(
        [
            ("image_id", pa.int64()),
            ("category_id", pa.int32()),
            ("area_px", pa.int32()),
            ("free_px", pa.int32()),
            ("score", pa.float32()),
            ("end", pa.string()),
            ("reason", pa.string()),
            ("instance", pa.int32()),  # position among the image's rows of the end's instances.parquet
        ]
    ),
)
"""All candidates that are rejected, and why."""


def open_fused(folder: Path, truth: PanopticDataset) -> PanopticDataset:
    """What stage fuse wrote. Raises DataError if it is not of the same images and categories as the truth."""
    fused = read_panoptic(folder / PANOPTIC_FILE, images_dir=truth.images_dir, panoptic_dir=folder / PANOPTIC_FOLDER)
    if [image.source_id for image in fused.images] != [image.source_id for image in truth.images]:
        raise DataError(
            f"{fused.annotations}: expected the images of {truth.annotations}, got others; run `dvc repro fuse`"
        )
    if fused.categories != truth.categories:
        raise DataError(f"{fused.annotations}: expected the categories of {truth.annotations}; run `dvc repro fuse`")
    return fused


class RowsByImage:
    """The rows of a table in a fused system's folder, by image. Raises CacheError unless the columns are so."""

    def __init__(self, folder: Path, table: TableFile) -> None:
        path = folder / table.file_name
        with ParquetReader(path, table.schema, remedy="run `dvc repro fuse`", error=CacheError) as file:
            self.table = file.read()
        self._image_ids = self.table["image_id"].to_numpy()
        if (np.diff(self._image_ids) < 0).any():
            raise CacheError(f"{path}: expected ascending image ids; run `dvc repro fuse`")

    def read(self, image_id: int) -> list[dict[str, object]]:
        """The rows of an image in the file's order; none for an image without a row."""
        first, last = np.searchsorted(self._image_ids, [image_id, image_id + 1])
        return self.table.slice(first, last - first).to_pylist()
