"""The cached predictions of one end and split as a lazy collection:

    from antvisionps.inspection.predictions import open_predictions
    cache = open_predictions("data/predictions/e_ups/val")

`cache[12]` is the image whose id is 12, iterating goes through all of them, and `to_arrow` and `to_pandas` give the
tables whole. Nothing is read before it is asked for, and masks and probabilities are decoded when touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.core.extras import needs_extra
from antvisionps.fusion.semantic_average import SemanticAverage, average_semantics
from antvisionps.inspection.collection import ImagesById, load_photo, name_choices
from antvisionps.inspection.pictures import draw_instances, draw_semantic
from antvisionps.panoptic.categories import Category, CategorySet
from antvisionps.panoptic.ids import ImageId
from antvisionps.predictions.instances import ImageInstances, InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, REMEDY, SEMANTIC_FILE
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader
from antvisionps.report.shown import EXTRA, Shown, to_frame

if TYPE_CHECKING:
    import pandas as pd

FILES = {"instances": INSTANCES_FILE, "semantic": SEMANTIC_FILE}
"""Table → its file in the folder of a cache."""

TableName = Literal["instances", "semantic"]


def open_predictions(folder: str | Path, *, prepared: str | Path | None = None) -> CachedPredictions:
    """The cache in that folder, `data/predictions/<end>/<split>`. An end may have instances, semantics or both. Photos
    are those of what stage prepare wrote, by default in `prepared` beside `predictions`.

    Raises CacheError where there is neither, where a file is damaged, and where the two are not of the same images,
    categories and weights.
    """
    return CachedPredictions(Path(folder), Path(folder, "../../../prepared") if prepared is None else Path(prepared))


class CachedPredictions(ImagesById["ImagePredictions"], AbstractContextManager["CachedPredictions"]):
    """Files stay open until `close`, or the end of a `with` block."""

    def __init__(self, folder: Path, prepared: Path) -> None:
        self.prepared = prepared
        self._readers: dict[str, InstancesReader | SemanticReader] = {}
        try:
            if (folder / INSTANCES_FILE).is_file():
                self._readers["instances"] = InstancesReader(folder / INSTANCES_FILE)
            if (folder / SEMANTIC_FILE).is_file():
                self._readers["semantic"] = SemanticReader(folder / SEMANTIC_FILE)
            if not self._readers:
                raise CacheError(f"{folder}: neither {INSTANCES_FILE} nor {SEMANTIC_FILE}{_caches_near(folder)}")
            first, *others = self._readers.values()
            if any(first.header != other.header or first.image_ids != other.image_ids for other in others):
                files = f"{INSTANCES_FILE} and {SEMANTIC_FILE}"
                raise CacheError(f"{folder}: {files} are not of the same images, data and weights; {REMEDY}")
        except BaseException:
            self.close()
            raise
        self.header = first.header
        """End, split, fingerprint of the data set, categories, checksum of the weights."""
        self._number_of = {first.header.source_id(number): number for number in first.image_ids}
        super().__init__(folder, first.header.categories, list(self._number_of), lambda i: ImagePredictions(self, i))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for reader in self._readers.values():
            reader.__exit__()

    @property
    def tables(self) -> list[str]:
        """Which of `instances` and `semantic` this cache has."""
        return list(self._readers)

    def __repr__(self) -> str:
        return f"<{self.header.end} {self.header.split}: {len(self)} images, {' and '.join(self.tables)}>"

    def to_arrow(self, table: TableName = "instances", columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table as in its file, or some columns of it; instances also have their category's name.

        Without `columns`, masks and probabilities come along, still encoded. Raises CacheError on a damaged file.
        """
        self._refuse_missing(table)
        read = self._readers[table].read_table(None if columns is None else list(columns))
        if "category_id" not in read.column_names:
            return read
        names = [self.categories.by_id(category_id).name for category_id in read["category_id"].to_pylist()]
        place = read.column_names.index("category_id") + 1
        return read.add_column(place, "category", pa.array(names, pa.string()))

    def to_pandas(self, table: TableName = "instances", columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The same as a data frame. Raises AntVisionPSError without pandas."""
        with needs_extra(EXTRA):
            return self.to_arrow(table, columns).to_pandas()

    def read(self, table: TableName, image_id: ImageId) -> Any:
        """ImageInstances or ImageSemantics of an image, as arrays. Raises CacheError where the end predicts none."""
        self._refuse_missing(table)
        return self._readers[table].read(self._number_of[image_id])

    def _refuse_missing(self, table: TableName) -> None:
        if table not in self._readers:
            raise CacheError(f"{self.folder}: no {FILES[table]}; {self.header.end} has {', '.join(self.tables)} only")


@dataclass(frozen=True, repr=False)
class ImagePredictions(Shown):
    """What an end says of one image; read when touched."""

    cache: CachedPredictions
    image_id: ImageId

    def __repr__(self) -> str:
        header, tables = self.cache.header, self.cache.tables
        found = [f"{len(self.instances)} instances"] if "instances" in tables else []
        found += ["semantic"] if "semantic" in tables else []
        return f"<{header.end} {header.split}, image {self.image_id}: {' and '.join(found)}>"

    def picture(self) -> np.ndarray:
        """The instances on the photo; the semantics of an end that has no instances."""
        if "instances" not in self.cache.tables:
            return self.semantic.picture()
        return draw_instances(self.photo, self.instances)

    @cached_property
    def photo(self) -> np.ndarray:
        """(height, width, 3) uint8 RGB. Raises DataError where it is not found."""
        return load_photo(self.cache.prepared, self.cache.header.split, self.image_id)

    def to_pandas(self) -> pd.DataFrame:
        """The instances, a row each. Raises AntVisionPSError without pandas."""
        from antvisionps.inspection.records import instance_records

        return to_frame(instance_records(self.instances))

    @cached_property
    def instance_arrays(self) -> ImageInstances:
        return self.cache.read("instances", self.image_id)

    @cached_property
    def instances(self) -> list[Instance]:
        """Best score first."""
        arrays = self.instance_arrays
        categories = map(self.cache.categories.by_id, arrays.category_ids.tolist())
        return [Instance(arrays, position, category, self) for position, category in enumerate(categories)]

    @cached_property
    def semantic(self) -> Semantic:
        return Semantic(self.cache.read("semantic", self.image_id), self.cache.categories)

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width) of the original image."""
        read = self.instance_arrays if "instances" in self.cache.tables else self.semantic.arrays
        return read.height, read.width


@dataclass(frozen=True, repr=False)
class Instance(Shown):
    """One detected thing. `position`: its rank in the image, 0 has the best score."""

    arrays: ImageInstances
    position: int
    category: Category
    image: ImagePredictions

    def __repr__(self) -> str:
        return f"<{self.category.name} {self.score:.3f}, {self.area_px} px>"

    def picture(self) -> np.ndarray:
        return draw_instances(self.image.photo, [self])

    @property
    def score(self) -> float:
        return float(self.arrays.scores[self.position])

    @property
    def box_xywh(self) -> tuple[float, float, float, float]:
        """In pixels of the original image."""
        x, y, width, height = self.arrays.boxes_xywh[self.position].tolist()
        return x, y, width, height

    @property
    def area_px(self) -> int:
        return int(self.arrays.areas_px[self.position])

    @cached_property
    def mask(self) -> np.ndarray:
        """(height, width) bool, at the original size. Raises CacheError on a damaged one."""
        return self.arrays.runs.mask(self.position)

    @property
    def mask_probs(self) -> np.ndarray | None:
        """(28, 28) float32 in 0 to 1 inside the box, where the end kept them."""
        grids = self.arrays.mask_probs
        return None if grids is None else grids[self.position].astype(np.float32) / 255


@dataclass(frozen=True, repr=False)
class Semantic(Shown):
    """The semantic probabilities of one image, on the end's own grid; `arrays` has them as they are stored."""

    arrays: ImageSemantics
    all_categories: CategorySet

    def __repr__(self) -> str:
        categories, height, width = self.arrays.planes.shape
        return f"<semantic: {categories} categories on {height} x {width} cells>"

    def picture(self) -> np.ndarray:
        return draw_semantic(self)

    def to_pandas(self) -> pd.DataFrame:
        """The categories, a row each. Raises AntVisionPSError without pandas."""
        from antvisionps.inspection.records import semantic_records

        return to_frame(semantic_records(self))

    @cached_property
    def categories(self) -> list[Category]:
        """Those of the planes, in the planes' order; all others are 0 everywhere."""
        return [self.all_categories.by_id(category_id) for category_id in self.arrays.category_ids.tolist()]

    @cached_property
    def probs(self) -> np.ndarray:
        """(C, grid_height, grid_width) float32 in 0 to 1, a plane for each of `categories`."""
        return self.arrays.planes.astype(np.float32) / 255

    @cached_property
    def class_map(self) -> np.ndarray:
        """(height, width) uint8 class indices at the original size, as the fusion takes them from this end alone."""
        return self._average.class_map

    @cached_property
    def confidence(self) -> np.ndarray:
        """(height, width) float32, the probability of the likeliest class."""
        return self._average.confidence()

    @cached_property
    def _average(self) -> SemanticAverage:
        return average_semantics(
            [self.arrays], weights=[1.0], average_of="probabilities", categories=self.all_categories
        )


def _caches_near(folder: Path) -> str:
    """What a wrong path may have meant: the caches below the nearest folder that exists."""
    near = next((place for place in (folder, *folder.parents[:2]) if place.is_dir()), None)
    found = set() if near is None else {path.parent for name in FILES.values() for path in near.glob(f"**/{name}")}
    if not found:
        return "; run `dvc repro` to predict, or name a folder like data/predictions/<end>/<split>"
    return name_choices(sorted(map(str, found)))
