"""What a fused system leaves on disk: a split in the COCO panoptic format, its segments, the rejected candidates."""

from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError, DataError, clipped
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.panoptic.coco_json import MAX_AREA_PX, read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage

PANOPTIC_FILE, PANOPTIC_FOLDER = "panoptic.json", "panoptic"
DOUBT_FOLDER = "doubt"
"""8-bit PNGs beside the maps, of the same names; only where `fuse.doubt` asks for them."""


class RejectReason(StrEnum):
    """Why a candidate is not in the panoptic map, the first that applies in this order."""

    ROUTED_AWAY = "routed_away"
    MERGED = "merged"
    LOW_SCORE = "low_score"
    NMS = "nms"
    EMPTY = "empty"
    OVERLAP_FRAC = "overlap_frac"
    OUTVOTED = "outvoted"
    LOW_CONFIDENCE = "low_confidence"
    AREA = "area"
    IMPROBABLE = "improbable"


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
            ("probability", pa.float32()),  # of matching a true segment; null unless fuse.method is auto
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


NULLABLE = {"score", "free_px", "instance", "probability"}

REMEDY = "run `dvc repro fuse`"


def open_fused(folder: Path, truth: PanopticDataset) -> PanopticDataset:
    """What stage fuse wrote. Raises DataError if it is not of the same images and categories as the truth."""
    fused = read_panoptic(folder / PANOPTIC_FILE, images_dir=truth.images_dir, panoptic_dir=folder / PANOPTIC_FOLDER)
    images, gt_images = ([(image.source_id, image.height, image.width) for image in of.images] for of in (fused, truth))
    if images != gt_images:
        raise DataError(f"{fused.annotations}: expected the images of {truth.annotations}, got others; {REMEDY}")
    if fused.categories != truth.categories:
        raise DataError(f"{fused.annotations}: expected the categories of {truth.annotations}; {REMEDY}")
    return fused


def has_doubt(fused: PanopticDataset) -> bool:
    """Whether stage fuse wrote the doubt of the maps."""
    return (fused.annotations.parent / DOUBT_FOLDER).is_dir()


def read_doubt(fused: PanopticDataset, image: PanopticImage) -> np.ndarray:
    """(H, W) uint8 of one of the maps, 0 sure to 255. Raises CacheError where there is none, or of another size."""
    path = fused.annotations.parent / DOUBT_FOLDER / image.panoptic_file_name
    doubt = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if doubt is None or doubt.shape != (image.height, image.width):
        found = "none" if doubt is None else "{}x{}".format(*doubt.shape[::-1])
        raise CacheError(
            f"{path}: expected a picture of {image.width}x{image.height}, got {found}; run `dvc repro fuse` with "
            "fuse.doubt: true"
        )
    return doubt


class RowsByImage:
    """The rows of a table in the folder of a fused system, by image. Raises CacheError unless the columns are so, the
    numbers in range, and images, categories and segments those of `fused`, the system's panoptic.json."""

    def __init__(self, folder: Path, table: TableFile, fused: PanopticDataset) -> None:
        self._path = folder / table.file_name
        with ParquetReader(self._path, table.schema, remedy=REMEDY, error=CacheError) as file:
            self.table = file.read()
        for name in table.schema.names:
            self._refuse_wrong_values(name, self.table[name], fused)
        self._image_ids = self.table["image_id"].to_numpy()
        if (np.diff(self._image_ids) < 0).any():
            raise self._refusal("expected ascending image ids")
        if table is SEGMENTS:
            self._refuse_other_segments(fused)

    def read(self, image_id: int) -> list[dict[str, Any]]:
        """The rows of an image in the file's order; none for an image without a row."""
        first, last = np.searchsorted(self._image_ids, [image_id, image_id + 1])
        return self.table.slice(first, last - first).to_pylist()

    def numbers(self, name: str) -> np.ndarray:
        """(rows,) of a column of numbers; NaN for null, which only columns of floats may have."""
        column = self.table[name]
        return (column.fill_null(float("nan")) if column.null_count else column).to_numpy()

    def _refuse_wrong_values(self, name: str, column: pa.ChunkedArray, fused: PanopticDataset) -> None:
        if column.null_count and name not in NULLABLE:
            raise self._refusal(f"a row has no {name}")
        for value in _wrong_values(name, column.drop_null(), fused):
            raise self._refusal(f"{name} of a row is {clipped(value)}")

    def _refuse_other_segments(self, fused: PanopticDataset) -> None:
        expected = [
            (image.image_id, segment.segment_id, segment.category_id, segment.area_px)
            for image in fused.images
            for segment in image.segments
        ]
        columns = ("image_id", "segment_id", "category_id", "area_px")
        found = np.stack([self.table[name].to_numpy().astype(np.int64) for name in columns], axis=1)
        if not np.array_equal(found, np.array(expected, dtype=np.int64).reshape(-1, 4)):
            raise self._refusal(f"expected the segments of {fused.annotations}, got others")
        is_thing = np.isin(found[:, 2], list(fused.categories.thing_ids))
        if (self.table["score"].is_valid().to_pylist() != is_thing).any():
            raise self._refusal("expected a score of each thing, and of no stuff")

    def _refusal(self, problem: str) -> CacheError:
        return CacheError(f"{self._path}: {problem}; {REMEDY}")


def _wrong_values(name: str, column: pa.ChunkedArray, fused: PanopticDataset) -> list[object]:
    """Those in a column without nulls that cannot be."""
    if name == "end":
        return [end for end in set(column.to_pylist()) if not end]
    if name == "reason":
        return sorted(set(column.to_pylist()) - set(RejectReason))
    values = column.to_numpy()
    if name == "image_id":
        is_possible = np.isin(values, [image.image_id for image in fused.images])
    elif name == "category_id":
        is_possible = np.isin(values, fused.categories.category_ids)
    else:
        is_possible = (values >= 0) & (values <= (1 if name in {"score", "probability"} else MAX_AREA_PX))
    return values[~is_possible].tolist()
