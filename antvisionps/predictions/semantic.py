"""Semantic probabilities in the cache: one row an image."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from PIL import Image

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.colors import page_colors
from antvisionps.predictions.cache_file import CachedImage, CacheReader, CacheWriter, ColumnsOfRows
from antvisionps.predictions.schema import SEMANTIC_SCHEMA, CacheHeader, CacheIdentity

BLACK_RGB = (0, 0, 0)

_LZ4_LEVEL = 3
"""Higher ones take longer to write, for little; zstd takes twice as long to read."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageSemantics(CachedImage):
    """The probabilities of C categories on an end's output grid; a category that is not listed is 0 everywhere.

    category_ids (C,) int32, each once · planes (C, grid_height, grid_width) uint8 = round(255 p). Grid cell (0, 0)
    covers the `stride` x `stride` input pixels at the top left; the network's valid input (before padding) is
    input_height x input_width and shows the whole original image of height x width. Raises CacheError if something is
    not so.
    """

    input_height: int
    input_width: int
    stride: float
    category_ids: np.ndarray
    planes: np.ndarray

    def __repr__(self) -> str:
        categories, height, width = self.planes.shape
        size = f"{self.height} x {self.width} px"
        return f"<image {self.image_id}, {size}: {categories} categories on {height} x {width} cells>"

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
        input_hw = (self.input_height, self.input_width)
        if not 0 < self.stride <= 2 * max(input_hw):
            raise CacheError(f"{where}: expected a positive stride within twice the input, got {self.stride:g}")
        for cells, input_px in zip(planes.shape[1:], input_hw, strict=True):
            covers = input_px - self.stride < cells * self.stride
            if input_px < 1 or not covers or (cells - 1) * self.stride >= 2 * input_px:
                raise CacheError(
                    f"{where}: expected a grid that covers the input of {self.input_height} x {self.input_width} px, "
                    f"got {planes.shape[1]} x {planes.shape[2]} cells of {self.stride:g} px, "
                    f"{'twice as many or more' if covers else 'too few'}"
                )

    @classmethod
    def from_probs(
        cls,
        image_id: int,
        *,
        hw: tuple[int, int],
        input_hw: tuple[int, int],
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
        category_ids = np.asarray(category_ids, dtype=np.int32)[listed]
        return cls(image_id, *hw, *input_hw, stride, category_ids, planes[listed])

    def pixels_of_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the columns of the photo's pixels below the centres of the cells, of those that lie on it."""
        rows, columns = ((np.arange(cells) + 0.5) * self.stride for cells in self.planes.shape[1:])
        return (
            (rows[rows < self.input_height] * self.height / self.input_height).astype(np.int64),
            (columns[columns < self.input_width] * self.width / self.input_width).astype(np.int64),
        )


def likeliest_classes(image: ImageSemantics, categories: CategorySet) -> tuple[np.ndarray, np.ndarray]:
    """(grid_height, grid_width) uint8 each: the likeliest class index of each cell, the lowest on a tie, and
    round(255 p) of it."""
    class_indices = np.array([categories.class_index(category_id) for category_id in image.category_ids.tolist()])
    order = np.argsort(class_indices)
    confidence = image.planes.max(axis=0)
    likeliest = np.empty_like(confidence)
    for place in order[::-1].tolist():  # a third of the time of argmax over the first axis
        likeliest[image.planes[place] == confidence] = class_indices[place]
    return likeliest, confidence


def draw_preview(image: ImageSemantics, categories: CategorySet) -> bytes:
    """A palette PNG of the likeliest class index of each cell, the lowest on a tie, in the report page's colours; black
    where no category has any probability."""
    likeliest, confidence = likeliest_classes(image, categories)
    likeliest[confidence == 0] = len(categories)
    picture = Image.fromarray(likeliest)
    picture.putpalette(bytes(chain(*page_colors(categories), BLACK_RGB)))
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()


class SemanticWriter(CacheWriter[ImageSemantics]):
    """Writes `semantic.parquet`."""

    def __init__(self, path: Path, header: CacheHeader) -> None:
        super().__init__(path, header, SEMANTIC_SCHEMA, compression="lz4", compression_level=_LZ4_LEVEL)

    def _to_rows(self, image: ImageSemantics) -> pa.RecordBatch:
        _refuse_unknown_categories(image, self.header.categories)
        row = vars(image) | {
            "grid_height": image.planes.shape[1],
            "grid_width": image.planes.shape[2],
            "category_ids": image.category_ids.tolist(),
            "planes": image.planes.tobytes(),
            "preview": draw_preview(image, self.header.categories),
        }
        return pa.RecordBatch.from_pylist([row], SEMANTIC_SCHEMA)


class SemanticReader(CacheReader[ImageSemantics]):
    """Reads `semantic.parquet`: iterate over it, or `read(image_id)`."""

    def __init__(
        self, path: Path, expect: CacheIdentity | None = None, *, images: Mapping[int, tuple[int, int]] | None = None
    ) -> None:
        columns = [name for name in SEMANTIC_SCHEMA.names if name != "preview"]
        super().__init__(path, SEMANTIC_SCHEMA, expect=expect, images=images, columns=columns)

    def _build(self, image_id: int, height: int, width: int, rows: ColumnsOfRows) -> ImageSemantics:
        category_ids = np.array(rows["category_ids"][0].as_py(), dtype=np.int32)
        grid_hw = (rows["grid_height"].item(), rows["grid_width"].item())
        planes = np.frombuffer(rows["planes"][0].as_buffer(), dtype=np.uint8)
        shape = (len(category_ids), *grid_hw)
        if len(planes) != math.prod(shape) or min(grid_hw) < 1:
            raise CacheError(
                f"image {image_id}: expected {math.prod(shape)} bytes of planes, {len(category_ids)} categories on a "
                f"grid {grid_hw}, got {len(planes)}"
            )
        image = ImageSemantics(
            image_id=image_id,
            height=height,
            width=width,
            input_height=rows["input_height"].item(),
            input_width=rows["input_width"].item(),
            stride=rows["stride"].item(),
            category_ids=category_ids,
            planes=planes.reshape(shape),
        )
        _refuse_unknown_categories(image, self.header.categories)
        return image


def _refuse_unknown_categories(image: ImageSemantics, categories: CategorySet) -> None:
    for category_id in image.category_ids.tolist():
        if category_id not in categories:
            raise CacheError(f"image {image.image_id}: unknown category {category_id}")
