"""Semantic probabilities in the cache: one row an image, the planes of its categories LZ4-compressed.

Planes are read far more often than written. LZ4 is read three times as fast as a PNG, and is a seventh larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import lz4.block
import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.predictions.schema import (
    SEMANTIC_SCHEMA,
    CacheHeader,
    CacheIdentity,
    CacheReader,
    CacheWriter,
    ImageRows,
    Rows,
)

_LZ4_LEVEL = 6
"""Higher ones take much longer for little."""


@dataclass(frozen=True, eq=False)
class ImageSemantics:
    """The probabilities of C categories on an end's output grid; a category that is not listed is 0 everywhere.

    category_ids (C,) int32, each once · planes (C, grid_height, grid_width) uint8 = round(255 p). Grid cell (0, 0)
    covers the `stride` x `stride` input pixels at the top left; the network's valid input (before padding) is
    input_height x input_width and shows the whole original image of height x width. Raises CacheError if something is
    not so.
    """

    image_id: int
    height: int
    width: int
    input_height: int
    input_width: int
    stride: float
    category_ids: np.ndarray
    planes: np.ndarray

    def __post_init__(self) -> None:
        ids, planes = self.category_ids, self.planes
        where = f"image {self.image_id}"
        if ids.ndim != 1 or ids.dtype != np.int32 or len(ids) == 0:
            raise CacheError(f"{where}: expected category_ids (C,) int32 with C > 0, got {ids.shape} {ids.dtype}")
        if planes.ndim != 3 or planes.dtype != np.uint8 or len(planes) != len(ids):
            expected = f"planes ({len(ids)}, grid_height, grid_width) uint8"
            raise CacheError(f"{where}: expected {expected}, got {planes.shape} {planes.dtype}")
        if len(set(ids.tolist())) != len(ids):
            raise CacheError(f"{where}: category_ids lists a category twice: {ids.tolist()}")
        if not (np.isfinite(self.stride) and self.stride > 0):
            raise CacheError(f"{where}: expected a positive stride, got {self.stride}")
        for axis, input_px in enumerate((self.input_height, self.input_width)):
            if input_px < 1 or input_px - self.stride >= planes.shape[axis + 1] * self.stride:
                raise CacheError(
                    f"{where}: expected a grid that covers the input of {self.input_height} x {self.input_width} px, "
                    f"got {planes.shape[1]} x {planes.shape[2]} cells of {self.stride:g} px"
                )

    @classmethod
    def from_probs(
        cls,
        *,
        image_id: int,
        height: int,
        width: int,
        input_height: int,
        input_width: int,
        stride: float,
        category_ids: np.ndarray,
        probs: np.ndarray,
    ) -> Self:
        """Rounds probs (C, grid_height, grid_width), float in [0, 1], and leaves out the planes that are 0 everywhere.

        Of at most 255 categories that sum to 1 the largest is at least 1/255, so a plane always remains.
        """
        if not np.isfinite(probs).all():
            raise CacheError(f"image {image_id}: expected finite probabilities")
        planes = np.rint(np.clip(probs, 0, 1) * 255).astype(np.uint8)
        listed = planes.any(axis=(1, 2))
        return cls(
            image_id=image_id,
            height=height,
            width=width,
            input_height=input_height,
            input_width=input_width,
            stride=stride,
            category_ids=np.asarray(category_ids, dtype=np.int32)[listed],
            planes=planes[listed],
        )


def semantic_rows(image: ImageSemantics, categories: CategorySet) -> ImageRows:
    """What `semantic.parquet` holds of an image, one row. Raises CacheError on an unknown category."""
    _refuse_unknown_categories(image, categories)
    _, grid_height, grid_width = image.planes.shape
    row = {
        "image_id": image.image_id,
        "height": image.height,
        "width": image.width,
        "input_height": image.input_height,
        "input_width": image.input_width,
        "stride": image.stride,
        "grid_height": grid_height,
        "grid_width": grid_width,
        "category_ids": image.category_ids.tolist(),
        "planes": _encode_planes(image.planes),
    }
    rows = pa.RecordBatch.from_pylist([row], schema=SEMANTIC_SCHEMA)
    return ImageRows(image.image_id, image.height, image.width, rows)


class SemanticWriter(CacheWriter):
    """Writes `semantic.parquet`."""

    def __init__(self, path: Path, header: CacheHeader) -> None:
        # The planes are compressed already, and the other columns are a few bytes an image.
        super().__init__(path, header, SEMANTIC_SCHEMA, compression="none")

    def write(self, image: ImageSemantics) -> None:
        """Appends one image. Image ids have to ascend. Raises CacheError also on an unknown category."""
        self.append(semantic_rows(image, self.header.categories))


class SemanticReader(CacheReader[ImageSemantics]):
    """Reads `semantic.parquet`: iterate over it, or `read(image_id)`."""

    def __init__(
        self,
        path: Path,
        expect: CacheIdentity | None = None,
        *,
        images: Mapping[int, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(path, SEMANTIC_SCHEMA, expect=expect, images=images)

    def _read_index(self, metadata: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        try:
            table = self._parquet.read(columns=["image_id", "height", "width"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CacheError(f"{self.path}: its list of images is damaged ({error}); run `dvc repro`") from error
        image_ids, heights, widths = (np.from_dlpack(column.combine_chunks()) for column in table.columns)
        return image_ids, np.stack([heights, widths], axis=1), np.ones(len(table), dtype=np.int64)

    def _build(self, image_id: int, height: int, width: int, rows: Rows) -> ImageSemantics:
        row = {name: column[0].item() for name, column in rows.numbers.items()}
        grid_hw = (row["grid_height"], row["grid_width"])
        category_ids = np.from_dlpack(rows.others["category_ids"][0].values)
        image = ImageSemantics(
            image_id=image_id,
            height=height,
            width=width,
            input_height=row["input_height"],
            input_width=row["input_width"],
            stride=row["stride"],
            category_ids=category_ids,
            planes=_decode_planes(image_id, rows.others["planes"][0].as_buffer(), len(category_ids), grid_hw),
        )
        _refuse_unknown_categories(image, self.header.categories)
        return image


def _encode_planes(planes: np.ndarray) -> bytes:
    """Their size in bytes as 32 bits, little-endian, and an LZ4 block."""
    cells = np.ascontiguousarray(planes).ravel()
    return lz4.block.compress(cells, mode="high_compression", compression=_LZ4_LEVEL, store_size=True)


def _decode_planes(image_id: int, compressed: pa.Buffer, count: int, grid_hw: tuple[int, int]) -> np.ndarray:
    shape = (count, *grid_hw)
    try:
        cells = lz4.block.decompress(compressed)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise CacheError(f"image {image_id}: its planes are not a whole LZ4 block ({error})") from error
    if len(cells) != math.prod(shape):
        raise CacheError(
            f"image {image_id}: expected {math.prod(shape)} bytes of planes, {count} categories on a grid {grid_hw}, "
            f"got {len(cells)}"
        )
    return np.frombuffer(cells, dtype=np.uint8).reshape(shape)


def _refuse_unknown_categories(image: ImageSemantics, categories: CategorySet) -> None:
    for category_id in image.category_ids.tolist():
        if category_id not in categories:
            raise CacheError(f"image {image.image_id}: unknown category {category_id}")
