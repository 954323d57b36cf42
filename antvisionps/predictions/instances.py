"""Instances in the cache: one row an instance, sorted by (image_id, -score, order of prediction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import MaskRuns, parse_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.cache_file import CachedImage, CacheReader, CacheWriter, ColumnsOfRows
from antvisionps.predictions.schema import INSTANCES_SCHEMA, MASK_PROBS_SIZE, CacheHeader, CacheIdentity


@dataclass(frozen=True, eq=False, repr=False)
class ImageInstances(CachedImage):
    """The N instances that an end found in one image; N = 0 is an image in which it found none.

    category_ids (N,) int32 · scores (N,) float32 from 0 to 1 · boxes_xywh (N, 4) float32 in pixels of the original
    image, at most its longer side beyond it · rles: N COCO compressed counts at the original size · mask_probs
    (N, 28, 28) uint8 (255 = 1) or None. Raises CacheError if a shape, dtype, number or mask is not so.
    """

    category_ids: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    rles: list[bytes]
    mask_probs: np.ndarray | None

    def __post_init__(self) -> None:
        count = len(self.rles)
        self._require("category_ids", self.category_ids, (count,), np.int32)
        self._require("scores", self.scores, (count,), np.float32)
        self._require("boxes_xywh", self.boxes_xywh, (count, 4), np.float32)
        if self.mask_probs is not None:
            self._require("mask_probs", self.mask_probs, (count, MASK_PROBS_SIZE, MASK_PROBS_SIZE), np.uint8)
        if count:
            side_px = max(self.height, self.width)
            self._require_range("scores", self.scores, 0, 1)
            self._require_range("boxes_xywh", self.boxes_xywh, -side_px, 2 * side_px)
            self._require_range("box sizes", self.boxes_xywh[:, 2:], 0, 2 * side_px)
        _ = self.runs

    def __len__(self) -> int:
        return len(self.rles)

    def __repr__(self) -> str:
        return f"<image {self.image_id}, {self.height} x {self.width} px: {len(self)} instances>"

    @cached_property
    def runs(self) -> MaskRuns:
        """All masks, parsed."""
        try:
            return parse_runs(self.rles, height=self.height, width=self.width)
        except ValueError as error:
            raise CacheError(f"image {self.image_id} of {self.height} x {self.width} px: {error}") from error

    @cached_property
    def areas_px(self) -> np.ndarray:
        """(N,) foreground pixels of each mask."""
        return self.runs.areas_px()

    @classmethod
    def of(cls, image: PanopticImage, rows: Sequence[tuple[int, float, Sequence[float], bytes]]) -> ImageInstances:
        """From a row each: category_id, score, bbox_xywh, COCO compressed counts."""
        return cls(
            image_id=image.image_id,
            height=image.height,
            width=image.width,
            category_ids=np.array([category_id for category_id, _, _, _ in rows], dtype=np.int32),
            scores=np.array([score for _, score, _, _ in rows], dtype=np.float32),
            boxes_xywh=np.array([box for _, _, box, _ in rows], dtype=np.float32).reshape(-1, 4),
            rles=[rle for _, _, _, rle in rows],
            mask_probs=None,
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageInstances:
        """The instances at these positions, in that order."""
        return replace(
            self,
            category_ids=self.category_ids[indices],
            scores=self.scores[indices],
            boxes_xywh=self.boxes_xywh[indices],
            rles=[self.rles[index] for index in indices],
            mask_probs=None if self.mask_probs is None else self.mask_probs[indices],
        )

    def sorted_by_score(self) -> ImageInstances:
        """The same instances, highest score first; equal scores keep their order."""
        return self.take(np.argsort(-self.scores, kind="stable"))

    def _require_range(self, name: str, values: np.ndarray, low: int, high: int) -> None:
        if values.min() >= low and values.max() <= high:  # both are NaN where one of them is
            return
        index = int(np.argwhere(~((values >= low) & (values <= high)))[0, 0])
        got = values[index].tolist()
        raise CacheError(f"image {self.image_id}: expected {name} from {low} to {high}, got {got} in instance {index}")

    def _require(self, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        if array.shape != shape or array.dtype != dtype:
            raise CacheError(
                f"image {self.image_id}: expected {name} {shape} {np.dtype(dtype)} for its {len(self.rles)} masks, got "
                f"{array.shape} {array.dtype}"
            )


class InstancesWriter(CacheWriter[ImageInstances]):
    """Writes `instances.parquet`, best score of an image first."""

    def __init__(self, path: Path, header: CacheHeader) -> None:
        super().__init__(path, header, INSTANCES_SCHEMA, compression="zstd", compression_level=3)

    def _to_rows(self, image: ImageInstances) -> pa.RecordBatch:
        image_ids = np.full(len(image), image.image_id)
        _refuse_other_than_things(image_ids, image.category_ids, self.header.categories)
        image = image.sorted_by_score()
        probs = image.mask_probs
        columns = {
            "image_id": image_ids,
            "height": np.full(len(image), image.height),
            "width": np.full(len(image), image.width),
            "category_id": image.category_ids,
            "score": image.scores,
            "bbox_xywh": list(image.boxes_xywh),
            "area_px": image.areas_px,
            "rle": image.rles,
            "mask_probs": [None] * len(image) if probs is None else [grid.tobytes() for grid in probs],
        }
        return pa.RecordBatch.from_pydict(columns, INSTANCES_SCHEMA)


class InstancesReader(CacheReader[ImageInstances]):
    """Reads `instances.parquet`: iterate over it, or `read(image_id)`. Leave `mask_probs` out where masks suffice."""

    def __init__(
        self,
        path: Path,
        expect: CacheIdentity | None = None,
        *,
        images: Mapping[int, tuple[int, int]] | None = None,
        mask_probs: bool = True,
    ) -> None:
        columns = [name for name in INSTANCES_SCHEMA.names if mask_probs or name != "mask_probs"]
        super().__init__(path, INSTANCES_SCHEMA, expect=expect, images=images, columns=columns)

    def _refuse_bad_rows(self, rows: ColumnsOfRows) -> None:
        image_ids, scores = rows["image_id"], rows["score"]
        _refuse_other_than_things(image_ids, rows["category_id"], self.header.categories)
        rises = (np.diff(scores) > 0) & (np.diff(image_ids) == 0)
        if rises.any():
            raise CacheError(f"image {image_ids[np.argmax(rises)]}: instances are not sorted by score")

    def _build(self, image_id: int, height: int, width: int, rows: ColumnsOfRows) -> ImageInstances:
        image = ImageInstances(
            image_id=image_id,
            height=height,
            width=width,
            category_ids=rows["category_id"],
            scores=rows["score"],
            boxes_xywh=rows["bbox_xywh"],
            rles=rows["rle"].to_pylist(),
            mask_probs=_stack_mask_probs(image_id, rows),
        )
        if (image.areas_px != rows["area_px"]).any():
            raise CacheError(f"image {image_id}: area_px disagrees with the masks")
        return image


def _stack_mask_probs(image_id: int, rows: ColumnsOfRows) -> np.ndarray | None:
    if "mask_probs" not in rows:
        return None
    grids = rows["mask_probs"].to_pylist()
    if not any(grid is not None for grid in grids):
        return None
    if any(grid is None or len(grid) != MASK_PROBS_SIZE**2 for grid in grids):
        raise CacheError(f"image {image_id}: expected mask_probs of {MASK_PROBS_SIZE**2} bytes in all rows or in none")
    return np.frombuffer(b"".join(grids), dtype=np.uint8).reshape(-1, MASK_PROBS_SIZE, MASK_PROBS_SIZE)


def _refuse_other_than_things(image_ids: np.ndarray, category_ids: np.ndarray, categories: CategorySet) -> None:
    """Of instances, each with its image's id. Raises CacheError on a category that is no thing."""
    for category_id in sorted(set(category_ids.tolist()) - categories.thing_ids):
        image_id = image_ids[np.argmax(category_ids == category_id)]
        what = "an instance of category {}, which is stuff" if category_id in categories else "unknown category {}"
        raise CacheError(f"image {image_id}: {what.format(category_id)}")
