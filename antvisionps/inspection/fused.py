"""The panoptic maps of one system as a lazy collection, with the source of segments and reasons of rejections:

from antvisionps.inspection import fused
maps = fused.open("data/fused/fusion")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.fusion.heuristic import FusedSegment
from antvisionps.fusion.rejected import RejectedCandidate, RejectReason
from antvisionps.inspection.choices import name_choices, name_nearest
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.fused_files import (
    CANDIDATES_FILE,
    CANDIDATES_SCHEMA,
    PANOPTIC_FILE,
    PANOPTIC_FOLDER,
    SEGMENTS_FILE,
    SEGMENTS_SCHEMA,
    RowsByImage,
)

REMEDY = "run `dvc repro fuse`"


def open(folder: str | Path) -> FusedMaps:
    """What stage fuse wrote there, `data/fused/<system>`. Raises CacheError where it is missing or damaged."""
    return FusedMaps(Path(folder))


class FusedMaps:
    """Images in ascending id; `maps[12]` is the image whose id is 12."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / PANOPTIC_FILE).is_file():
            others = sorted(path.parent.name for path in folder.parent.glob(f"*/{PANOPTIC_FILE}"))
            raise CacheError(f"{folder}: no {PANOPTIC_FILE}{name_choices(others) if others else f'; {REMEDY}'}")
        self._dataset: PanopticDataset = read_panoptic(
            folder / PANOPTIC_FILE, images_dir=folder, panoptic_dir=folder / PANOPTIC_FOLDER
        )
        self._image_of = {image.image_id: image for image in self._dataset.images}

    @property
    def system(self) -> str:
        return self.folder.resolve().name

    @property
    def categories(self) -> CategorySet:
        return self._dataset.categories

    @property
    def image_ids(self) -> list[int]:
        return list(self._image_of)

    def __len__(self) -> int:
        return len(self._image_of)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._image_of

    def __iter__(self) -> Iterator[FusedMap]:
        return (self[image_id] for image_id in self._image_of)

    def __getitem__(self, image_id: int) -> FusedMap:
        if image_id not in self:
            raise CacheError(f"{self.folder}: no image {image_id}{name_nearest(image_id, self.image_ids)}")
        return FusedMap(self, self._image_of[image_id])

    def to_arrow(self, table: Literal["segments", "candidates"] = "segments") -> pa.Table:
        """`segments`: all that are in the maps. `candidates`: all that are rejected, and why."""
        return self._rows_by_image(table).table

    def load_segment_ids(self, image: PanopticImage) -> np.ndarray:
        return self._dataset.load_segment_ids(image)

    def rows(self, table: Literal["segments", "candidates"], image_id: int) -> list[dict[str, Any]]:
        """The rows of one image, in the file's order."""
        return self._rows_by_image(table).read(image_id)

    def _rows_by_image(self, table: Literal["segments", "candidates"]) -> RowsByImage:
        return self._segments if table == "segments" else self._candidates

    @cached_property
    def _segments(self) -> RowsByImage:
        return RowsByImage(self.folder / SEGMENTS_FILE, SEGMENTS_SCHEMA)

    @cached_property
    def _candidates(self) -> RowsByImage:
        return RowsByImage(self.folder / CANDIDATES_FILE, CANDIDATES_SCHEMA)


@dataclass(frozen=True)
class FusedMap:
    """The panoptic map of one image; files are read when touched."""

    maps: FusedMaps
    image: PanopticImage

    @property
    def image_id(self) -> int:
        return self.image.image_id

    @cached_property
    def segment_ids(self) -> np.ndarray:
        """(height, width) int32, 0 = void. Raises DataError if the PNG is damaged or does not fit the JSON."""
        return self.maps.load_segment_ids(self.image)

    @cached_property
    def segments(self) -> list[FusedSegment]:
        """In ascending segment id."""
        box_of = {segment.segment_id: segment.bbox_xywh for segment in self.image.segments}
        return [
            FusedSegment(
                row["segment_id"],
                row["category_id"],
                row["area_px"],
                box_of[row["segment_id"]],
                row["score"],
                row["end"],
            )
            for row in self.maps.rows("segments", self.image_id)
        ]

    @cached_property
    def rejected(self) -> list[RejectedCandidate]:
        """The candidates that are not in the map, in the order in which the fusion met them."""
        return [
            RejectedCandidate(
                row["category_id"],
                row["area_px"],
                row["free_px"],
                row["score"],
                row["end"],
                RejectReason(row["reason"]),
                row["instance"],
            )
            for row in self.maps.rows("candidates", self.image_id)
        ]
