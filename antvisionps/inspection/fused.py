"""The panoptic maps of one system as a lazy collection, with the source of segments and reasons of rejections:

    from antvisionps.inspection.fused import open_fused_maps
    maps = open_fused_maps("data/fused/fusion")

`maps[12]` is that of the image whose id is 12. PNGs and tables are read when touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.core.extras import needs_extra
from antvisionps.fusion.heuristic import FusedSegment
from antvisionps.fusion.rejected import RejectedCandidate
from antvisionps.inspection.collection import ImagesById, load_photo, name_choices
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.fused_files import (
    CANDIDATES,
    PANOPTIC_FILE,
    PANOPTIC_FOLDER,
    REMEDY,
    SEGMENTS,
    RejectReason,
    RowsByImage,
)
from antvisionps.report.overlays import draw_panoptic
from antvisionps.report.shown import EXTRA, Shown, to_frame

if TYPE_CHECKING:
    import pandas as pd

TABLES = {"segments": SEGMENTS, "candidates": CANDIDATES}
TableName = Literal["segments", "candidates"]


def open_fused_maps(folder: str | Path, *, prepared: str | Path | None = None) -> FusedMaps:
    """What stage fuse wrote there, `data/fused/<system>`. Photos are those of val in what stage prepare wrote, by
    default in `prepared` beside `fused`. Raises CacheError where it is missing or damaged."""
    return FusedMaps(Path(folder), Path(folder, "../../prepared") if prepared is None else Path(prepared))


class FusedMaps(ImagesById["FusedMap"]):
    def __init__(self, folder: Path, prepared: Path) -> None:
        self.prepared = prepared
        if not (folder / PANOPTIC_FILE).is_file():
            others = sorted(path.parent.name for path in folder.parent.glob(f"*/{PANOPTIC_FILE}"))
            raise CacheError(f"{folder}: no {PANOPTIC_FILE}{name_choices(others) if others else f'; {REMEDY}'}")
        self._dataset = read_panoptic(folder / PANOPTIC_FILE, images_dir=folder, panoptic_dir=folder / PANOPTIC_FOLDER)
        image_of = {image.source_id: image for image in self._dataset.images}
        super().__init__(folder, self._dataset.categories, list(image_of), lambda i: FusedMap(self, image_of[i]))
        self._tables: dict[str, RowsByImage] = {}

    @property
    def system(self) -> str:
        return self.folder.resolve().name

    def load_segment_ids(self, image: PanopticImage) -> np.ndarray:
        return self._dataset.load_segment_ids(image)

    def __repr__(self) -> str:
        return f"<{self.system}: {len(self)} panoptic maps>"

    def to_arrow(self, table: TableName = "segments") -> pa.Table:
        return self._read(table).table

    def to_pandas(self, table: TableName = "segments") -> pd.DataFrame:
        """The same as a data frame. Raises AntVisionPSError without pandas."""
        with needs_extra(EXTRA):
            return self.to_arrow(table).to_pandas()

    def rows(self, table: TableName, image_id: int) -> list[dict[str, Any]]:
        """The rows of one image, in the file's order, without its id, which is the number inside the split."""
        return [{name: row[name] for name in row if name != "image_id"} for row in self._read(table).read(image_id)]

    def _read(self, table: TableName) -> RowsByImage:
        if table not in self._tables:
            self._tables[table] = RowsByImage(self.folder, TABLES[table], self._dataset)
        return self._tables[table]


@dataclass(frozen=True, repr=False)
class FusedMap(Shown):
    """The panoptic map of one image; files are read when touched."""

    maps: FusedMaps
    image: PanopticImage

    def __repr__(self) -> str:
        counts = f"{len(self.segments)} segments, {len(self.rejected)} rejected"
        return f"<{self.maps.system}, image {self.image_id}: {counts}>"

    def picture(self) -> np.ndarray:
        return draw_panoptic(self.photo, self.segment_ids, self.image.segments, self.maps.categories)

    @cached_property
    def photo(self) -> np.ndarray:
        """(height, width, 3) uint8 RGB. Raises DataError where it is not found."""
        return load_photo(self.maps.prepared, "val", self.image_id)

    def to_pandas(self, table: TableName = "segments") -> pd.DataFrame:
        """Segments or rejected candidates, a row each. Raises AntVisionPSError without pandas."""
        return to_frame(self.maps.rows(table, self.image.image_id))

    @property
    def image_id(self) -> ImageId:
        return self.image.source_id

    @cached_property
    def segment_ids(self) -> np.ndarray:
        """(height, width) int32, 0 = void. Raises DataError if the PNG is damaged or does not fit the JSON."""
        return self.maps.load_segment_ids(self.image)

    @cached_property
    def segments(self) -> list[FusedSegment]:
        """In ascending segment id."""
        box_of = {segment.segment_id: segment.bbox_xywh for segment in self.image.segments}
        rows = self.maps.rows("segments", self.image.image_id)
        return [FusedSegment(**row, bbox_xywh=box_of[row["segment_id"]]) for row in rows]

    @cached_property
    def rejected(self) -> list[RejectedCandidate]:
        """The candidates that are not in the map, in the order in which the fusion met them."""
        rows = self.maps.rows("candidates", self.image.image_id)
        return [RejectedCandidate(**row | {"reason": RejectReason(row["reason"])}) for row in rows]
