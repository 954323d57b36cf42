"""The true instances of a split as a file of their own, where they are not the segments of its panoptic maps.

COCO annotates instances one by one: their masks overlap, and a panoptic map shows of each what is in front. The file is
Parquet, one row an image in the order of the split's images: `image_id int64 · category_ids list<int32> · is_crowd
list<bool> · rles list<binary>` (COCO compressed counts at the image's size).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import PanopticImage

SCHEMA_VERSION = "1"
IMAGES_PER_GROUP = 64
"""Images of a row group: few, as training reads the group of whatever image it draws."""

_VERSION_KEY = "antvisionps.true_instances_version"
_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("is_crowd", pa.list_(pa.bool_()), nullable=False),
        pa.field("rles", pa.list_(pa.binary()), nullable=False),
    ],
    metadata={_VERSION_KEY: SCHEMA_VERSION},
)
REMEDY = "run `dvc repro -f prepare`"

Instance = tuple[int, bool, bytes]
"""category_id, whether it is a crowd, COCO compressed counts."""


@dataclass(frozen=True, eq=False)
class GtInstances:
    """The G annotated instances of one image: category_ids (G,), rles (COCO compressed counts), is_crowd (G,) bool."""

    category_ids: np.ndarray
    rles: list[bytes]
    is_crowd: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Instance]) -> GtInstances:
        category_ids = np.array([category_id for category_id, _, _ in rows], dtype=np.int32)
        return cls(category_ids, [rle for _, _, rle in rows], np.array([crowd for _, crowd, _ in rows], dtype=bool))


def visible_instances(segment_ids: np.ndarray, image: PanopticImage, categories: CategorySet) -> GtInstances:
    """The thing segments of an image's panoptic map (height, width)."""
    columns_first = np.asfortranarray(segment_ids)
    return GtInstances.of(
        [
            (one.category_id, one.is_crowd, encode_masks((columns_first == one.segment_id)[None])[0])
            for one in image.segments
            if categories.by_id(one.category_id).is_thing
        ]
    )


def write_gt_instances(path: Path, images: Iterable[tuple[int, GtInstances]]) -> None:
    """Writes (image_id, its instances) of all images of a split, in their order, IMAGES_PER_GROUP at a time."""
    rows = iter(images)
    with (
        atomic_file(path) as unfinished,
        pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd", write_page_checksum=True) as writer,
    ):
        while group := list(islice(rows, IMAGES_PER_GROUP)):
            columns = [
                [image_id for image_id, _ in group],
                [instances.category_ids.tolist() for _, instances in group],
                [instances.is_crowd.tolist() for _, instances in group],
                [instances.rles for _, instances in group],
            ]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            writer.write_table(pa.table(arrays, schema=_SCHEMA), row_group_size=IMAGES_PER_GROUP)


class GtInstancesReader:
    """The instances of any of a split's images; it can be handed to another process.

    Raises DataError, when opened or when an image is read, on a file that is missing, damaged, of another version, or
    of other images than `images`.
    """

    def __init__(self, path: Path, images: Sequence[PanopticImage]) -> None:
        self._path = path
        self._images = images
        self._row_of = {image.image_id: row for row, image in enumerate(images)}
        version = (_VERSION_KEY, SCHEMA_VERSION)
        self._parquet = ParquetReader(path, _SCHEMA, remedy=REMEDY, error=DataError, version=version)
        found = sum(self._parquet.rows_of_group)
        if found != len(images):
            raise DataError(f"{path}: expected the instances of {len(images)} images, got {found}; {REMEDY}")

    def __reduce__(self) -> tuple[type[GtInstancesReader], tuple[Path, Sequence[PanopticImage]]]:
        return GtInstancesReader, (self._path, self._images)

    def read(self, image_id: int) -> GtInstances:
        group, row = divmod(self._row_of[image_id], IMAGES_PER_GROUP)
        (found,) = self._parquet.read_group(group).slice(row, 1).to_pylist()
        if found["image_id"] != image_id:
            raise DataError(f"{self._path}: expected image {image_id}, got image {found['image_id']}; {REMEDY}")
        columns = (found["category_ids"], found["is_crowd"], found["rles"])
        if len({len(column) for column in columns}) > 1 or any(None in column for column in columns):
            raise DataError(f"{self._path}: image {image_id} has an instance without a category or mask; {REMEDY}")
        return GtInstances.of(list(zip(*columns, strict=True)))


def open_annotated(dataset: PanopticDataset) -> GtInstancesReader | None:
    """The true instances of a split that has them in a file."""
    return None if dataset.instances is None else GtInstancesReader(dataset.instances, dataset.images)
