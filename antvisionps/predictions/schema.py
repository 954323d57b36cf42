"""What the cache of predictions holds: its columns, and what its files say of themselves.

The metadata of a file name the end, the split, the data set (fingerprint and categories) and the weights it came from,
and list the images. A reader refuses a file that does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from antvisionps.core.errors import CacheError, DataError, clipped_text, first_line
from antvisionps.core.json_files import parse_json
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.ids import ImageId, parse_image_id

SCHEMA_VERSION = 3

MASK_PROBS_SIZE = 28
"""Side of the grid on which a mask head's probabilities are kept (He et al. 2017, Mask R-CNN: 28 x 28)."""

INSTANCES_FILE = "instances.parquet"
SEMANTIC_FILE = "semantic.parquet"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


INSTANCES_SCHEMA = pa.schema(
    [
        _required("image_id", pa.int64()),
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("category_id", pa.int32()),
        _required("score", pa.float32()),
        _required("bbox_xywh", pa.list_(_required("element", pa.float32()), 4)),
        _required("area_px", pa.int32()),
        _required("rle", pa.binary()),
        pa.field("mask_probs", pa.binary()),
    ]
)

SEMANTIC_SCHEMA = pa.schema(
    [
        _required("image_id", pa.int64()),
        _required("height", pa.int32()),
        _required("width", pa.int32()),
        _required("input_height", pa.int32()),
        _required("input_width", pa.int32()),
        _required("stride", pa.float32()),
        _required("grid_height", pa.int32()),
        _required("grid_width", pa.int32()),
        _required("category_ids", pa.list_(_required("element", pa.int32()))),
        _required("planes", pa.binary()),
        _required("preview", pa.binary()),
    ]
)

PREFIX = "antvisionps."
"""Of every key of ours in a file's metadata."""

REMEDY = "run `dvc repro` to predict again"
VERSION_REMEDY = "run `dvc repro predict` to predict again (predict_shared or import_end, if that wrote it)"


@dataclass(frozen=True)
class CacheIdentity:
    """What a reader may ask of a file: whose predictions, of which images."""

    end: str
    split: str
    dataset_fingerprint: str
    categories: CategorySet

    def refuse_other(self, found: CacheIdentity, path: Path) -> None:
        """Raises CacheError where `found`, which the file at `path` says of itself, is not what is expected."""
        for field in fields(CacheIdentity):
            expected, got = getattr(self, field.name), getattr(found, field.name)
            if expected == got:
                continue
            if field.name == "categories":
                raise CacheError(f"{path}: {_first_difference(expected, got)}; {REMEDY}")
            name = field.name.replace("_", " ")
            raise CacheError(f"{path}: expected {name} {expected}, got {clipped_text(got)}; {REMEDY}")


@dataclass(frozen=True)
class CacheHeader(CacheIdentity):
    """What a file says of itself."""

    weights_sha256: str
    given_ids: tuple[ImageId, ...] | None = None
    """The data set's own ids of the split's images, in ascending image_id, where they are not its image_ids."""

    def source_id(self, image_id: int) -> ImageId:
        """What the data set calls the image."""
        if self.given_ids is None or not 0 < image_id <= len(self.given_ids):
            return image_id
        return self.given_ids[image_id - 1]

    def to_metadata(self) -> dict[str, str]:
        entries = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "given_ids"}
        entries |= {"categories": json.dumps(self.categories.to_json()), "schema_version": str(SCHEMA_VERSION)}
        if self.given_ids is not None:
            entries["given_ids"] = json.dumps(self.given_ids)
        return {PREFIX + name: value for name, value in entries.items()}

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, str]) -> CacheHeader:
        """Raises CacheError where an entry is missing or damaged."""
        try:
            names = [field.name for field in fields(cls) if field.name != "given_ids"]
            entries: dict[str, Any] = {name: metadata[PREFIX + name] for name in names}
            given_ids = parse_json(metadata.get(PREFIX + "given_ids", "null"))
            entries["given_ids"] = None if given_ids is None else tuple(map(parse_image_id, given_ids))
            entries["categories"] = CategorySet.from_json(parse_json(entries["categories"]), where=str(path))
        except (KeyError, ValueError, TypeError, AttributeError, DataError) as error:
            raise CacheError(
                f"{path}: its metadata is not that of a cache of predictions ({first_line(error)}); {REMEDY}"
            ) from error
        return cls(**entries)


def _first_difference(expected: CategorySet, found: CategorySet) -> str:
    for wanted, got in zip(expected.categories, found.categories, strict=False):
        if wanted != got:
            return f"expected other categories: {wanted}, got {got}"
    return f"expected {len(expected)} categories, got {len(found)}"
