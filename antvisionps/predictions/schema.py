"""What the cache of predictions holds: columns, metadata, and the files' rules that instances and semantics share.

A cache file is a Parquet file that stands under its name only when whole. Its metadata names the end, the split, the
data set (fingerprint and categories) and the weights it came from; a reader refuses a file that does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import CacheError, DataError
from antvisionps.panoptic.categories import CategorySet

SCHEMA_VERSION = 2

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
    ]
)

_PREFIX = "antvisionps."
_IMAGES_PER_ROW_GROUP = 32
REMEDY = "run `dvc repro` to predict again"


@dataclass(frozen=True)
class CacheIdentity:
    """What a reader may ask of a file: whose predictions, of which images."""

    end: str
    split: str
    dataset_fingerprint: str
    categories: CategorySet


@dataclass(frozen=True)
class CacheHeader(CacheIdentity):
    """What a file says of itself."""

    weights_sha256: str


def cache_path(predictions_dir: Path, *, end: str, split: str, file_name: str) -> Path:
    """Where the cache of one end and split lies; `file_name` is INSTANCES_FILE or SEMANTIC_FILE."""
    return predictions_dir / end / split / file_name


@dataclass(frozen=True, eq=False)
class ImageRows:
    """What a cache file holds of one image: the rows, of which there may be none, and the size of the image."""

    image_id: int
    height: int
    width: int
    rows: pa.RecordBatch


class CacheWriter(AbstractContextManager["CacheWriter"]):
    """A Parquet file written image by image in bounded memory; it takes its name when the block ends without error."""

    def __init__(self, path: Path, header: CacheHeader, schema: pa.Schema, **options: Any) -> None:
        self.path = path
        self.header = header
        self._schema = schema.with_metadata(_header_to_metadata(header))
        self._options = options
        self._pending: list[pa.RecordBatch] = []
        self._pending_images = 0
        self._last_image_id: int | None = None

    def __enter__(self) -> Self:
        self._file = atomic_file(self.path)
        unfinished = self._file.__enter__()
        self._parquet = pq.ParquetWriter(
            unfinished,
            self._schema,
            use_dictionary=False,
            write_statistics=["image_id"],
            write_page_checksum=True,
            **self._options,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._parquet.add_key_value_metadata(self._closing_metadata())
            self._parquet.close()
        except BaseException as closing_error:
            self._file.__exit__(type(closing_error), closing_error, closing_error.__traceback__)
            raise
        self._file.__exit__(kind, error, traceback)

    def _closing_metadata(self) -> dict[str, str]:
        return {}

    def append(self, image: ImageRows) -> None:
        """Appends one image. Image ids have to ascend."""
        if self._last_image_id is not None and image.image_id <= self._last_image_id:
            raise CacheError(
                f"{self.path}: image {image.image_id} written after image {self._last_image_id}; write images in "
                "ascending id, each once"
            )
        self._last_image_id = image.image_id
        self._pending.append(image.rows)
        self._pending_images += 1
        if self._pending_images == _IMAGES_PER_ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._pending, schema=self._schema)
        if len(table):
            self._parquet.write_table(table, row_group_size=len(table))
        self._pending, self._pending_images = [], 0


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows: `numbers` are the columns of numbers, or of as many of them in each row, as arrays; `others` the rest.
    Taken apart for a row group at once, as each look into an Arrow table costs microseconds; by DLPack, as Arrow's
    to_numpy imports pandas, where there is one, which takes a second in each process."""

    numbers: Mapping[str, np.ndarray]
    others: Mapping[str, pa.Array]

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        numbers, others = {}, {}
        for name in table.column_names:
            chunked = table[name]
            column = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()  # which copies
            if pa.types.is_primitive(column.type):
                numbers[name] = np.from_dlpack(column)
            elif pa.types.is_fixed_size_list(column.type):
                size = column.type.list_size
                # `flatten` imports pyarrow.compute, for 60 ms in each process.
                numbers[name] = np.from_dlpack(column.values).reshape(-1, size)[column.offset :][: len(column)]
            else:
                others[name] = column
        return cls(numbers, others)

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(
            {name: column[rows] for name, column in self.numbers.items()},
            {name: column[rows] for name, column in self.others.items()},
        )


Image = TypeVar("Image")


class CacheReader(AbstractContextManager["CacheReader[Image]"], Generic[Image]):
    """The images of a cache file in ascending image_id, read one row group at a time.

    `expect` and `images` (image_id → (height, width) of the whole split) are what the file is checked against; what is
    None is not checked. Raises CacheError, when opened or when an image is read.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        expect: CacheIdentity | None,
        images: Mapping[int, tuple[int, int]] | None,
        columns: list[str] | None = None,
    ) -> None:
        self.path = path
        self._columns = columns
        self._parquet = _open_parquet(path)
        try:
            metadata = _read_metadata(path, self._parquet)
            self.header = _header_from_metadata(path, metadata)
            _refuse_other_columns(path, self._parquet.schema_arrow, schema)
            if expect is not None:
                _refuse_other_identity(path, self.header, expect)
            self._image_ids, self._image_hw, rows_per_image = self._read_index(metadata)
            self._rows_per_image = rows_per_image
            self._first_row = np.concatenate([[0], np.cumsum(rows_per_image)])
            self._refuse_inconsistent_index()
            if images is not None:
                self._refuse_other_images(images)
        except BaseException:
            self._parquet.close()
            raise
        self._group_index, self._group = -1, Rows({}, {})

    def _read_index(self, metadata: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """image_ids (n,), their (height, width) (n, 2), their numbers of rows (n,)."""
        raise NotImplementedError

    def _refuse_bad_rows(self, rows: Rows) -> None:
        """Raises CacheError, without the place, where the rows of some images hold what they must not."""

    def _build(self, image_id: int, height: int, width: int, rows: Rows) -> Image:
        """One image of its rows. Raises CacheError without the place, which `read` adds."""
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        self._parquet.close()

    def __len__(self) -> int:
        return len(self._image_ids)

    def __iter__(self) -> Iterator[Image]:
        for image_id in self.image_ids:
            yield self.read(image_id)

    @property
    def image_ids(self) -> list[int]:
        """Every image that was predicted, also those in which nothing was found, ascending."""
        return [int(image_id) for image_id in self._image_ids]

    def read(self, image_id: int) -> Image:
        """The predictions of one image. Reading in ascending order touches every row group once."""
        position = int(np.searchsorted(self._image_ids, image_id))
        if position == len(self) or self._image_ids[position] != image_id:
            raise CacheError(f"{self.path}: image {image_id} is missing from the cache; {REMEDY}")
        height, width = (int(side) for side in self._image_hw[position])
        rows = self._rows(int(self._first_row[position]), int(self._first_row[position + 1]))
        try:
            return self._build(image_id, height, width, rows)
        except CacheError as error:
            raise CacheError(f"{self.path}: {error}; {REMEDY}") from error

    @cached_property
    def _no_rows(self) -> Rows:
        # Not the schema's empty_table, which imports pandas, where there is one.
        schema = self._parquet.schema_arrow
        return Rows.of(pa.table([pa.nulls(0, kind) for kind in schema.types], schema=schema))

    def _rows(self, first: int, stop: int) -> Rows:
        if first == stop:
            return self._no_rows
        group = int(np.searchsorted(self._first_row_of_group, first, side="right")) - 1
        if group != self._group_index:
            self._group, self._group_index = self._read_group(group), group
        first_of_group = int(self._first_row_of_group[group])
        return self._group[first - first_of_group : stop - first_of_group]

    def _read_group(self, group: int) -> Rows:
        """The rows of a row group, whose small columns are checked here, all at once."""
        try:
            rows = Rows.of(self._parquet.read_row_group(group, columns=self._columns, use_threads=False))
        except (pa.ArrowException, OSError) as error:
            raise CacheError(f"{self.path}: row group {group} is damaged ({error}); {REMEDY}") from error
        images = slice(*np.searchsorted(self._first_row, self._first_row_of_group[group : group + 2]))
        row_counts = self._rows_per_image[images]
        image_ids, (heights, widths) = self._image_ids[images], self._image_hw[images].T
        for name, values in (("image_id", image_ids), ("height", heights), ("width", widths)):
            is_other = rows.numbers[name] != np.repeat(values, row_counts)
            if is_other.any():
                image_id = np.repeat(image_ids, row_counts)[np.argmax(is_other)]
                raise CacheError(
                    f"{self.path}: image {image_id}: rows with another {name} stand in its place; {REMEDY}"
                )
        try:
            self._refuse_bad_rows(rows)
        except CacheError as error:
            raise CacheError(f"{self.path}: {error}; {REMEDY}") from error
        return rows

    def _refuse_inconsistent_index(self) -> None:
        for before, image_id in zip(self._image_ids, self._image_ids[1:], strict=False):
            if image_id <= before:
                what = "appears twice" if image_id == before else f"comes after image {before}, out of order"
                raise CacheError(f"{self.path}: image {image_id} {what}; {REMEDY}")
        if (self._rows_per_image < 0).any():
            raise CacheError(f"{self.path}: its list of images counts fewer rows than none; {REMEDY}")
        groups = self._parquet.metadata
        rows_per_group = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
        self._first_row_of_group = np.concatenate([[0], np.cumsum(rows_per_group, dtype=np.int64)])
        if self._first_row[-1] != groups.num_rows:
            raise CacheError(
                f"{self.path}: expected {self._first_row[-1]} rows for its {len(self)} images, got {groups.num_rows}; "
                f"{REMEDY}"
            )
        if not np.isin(self._first_row_of_group, self._first_row).all():
            raise CacheError(f"{self.path}: an image is torn between two row groups; {REMEDY}")

    def _refuse_other_images(self, images: Mapping[int, tuple[int, int]]) -> None:
        image_ids, image_hw = np.array(list(images)), np.array(list(images.values()))
        if np.array_equal(image_ids, self._image_ids) and np.array_equal(image_hw, self._image_hw):
            return
        found = set(self.image_ids)
        for image_id in images:
            if image_id not in found:
                raise CacheError(
                    f"{self.path}: image {image_id} of split {self.header.split} is missing from the cache; {REMEDY}"
                )
        for image_id, (height, width) in zip(self.image_ids, self._image_hw, strict=True):
            if image_id not in images:
                raise CacheError(f"{self.path}: image {image_id} is not in split {self.header.split}; {REMEDY}")
            if images[image_id] != (height, width):
                raise CacheError(
                    f"{self.path}: image {image_id}: expected (height, width) {images[image_id]} as in the annotation, "
                    f"got {(int(height), int(width))}; {REMEDY}"
                )


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        # Buffered ahead, each column is copied once more.
        return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    except FileNotFoundError:
        raise CacheError(f"{path}: no such file; run `dvc repro` to predict") from None
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{path}: not a whole Parquet file ({error}); {REMEDY}") from error


def _header_to_metadata(header: CacheHeader) -> dict[str, str]:
    entries = {field.name: getattr(header, field.name) for field in fields(header)}
    entries["categories"] = json.dumps(header.categories.to_json())
    entries["schema_version"] = str(SCHEMA_VERSION)
    return {_PREFIX + name: value for name, value in entries.items()}


def _read_metadata(path: Path, parquet: pq.ParquetFile) -> dict[str, str]:
    raw = parquet.metadata.metadata or {}
    prefix = _PREFIX.encode()
    metadata = {key.removeprefix(prefix).decode(): raw[key].decode() for key in raw if key.startswith(prefix)}
    version = metadata.get("schema_version")
    if version != str(SCHEMA_VERSION):
        raise CacheError(f"{path}: expected schema version {SCHEMA_VERSION}, got {version or 'none'}; {REMEDY}")
    return metadata


def _header_from_metadata(path: Path, metadata: Mapping[str, str]) -> CacheHeader:
    try:
        entries: dict[str, Any] = {field.name: metadata[field.name] for field in fields(CacheHeader)}
        entries["categories"] = CategorySet.from_json(json.loads(metadata["categories"]), where=str(path))
    except (KeyError, ValueError, DataError) as error:
        raise CacheError(f"{path}: its metadata is not that of a cache of predictions ({error}); {REMEDY}") from error
    return CacheHeader(**entries)


def _refuse_other_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    if found.remove_metadata() == expected:
        return
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0 or found.field(index) != field:
            got = "none" if index < 0 else str(found.field(index).type)
            raise CacheError(f"{path}: expected a column {field.name} of {field.type}, got {got}; {REMEDY}")
    raise CacheError(f"{path}: expected the columns {expected.names}, got {found.names}; {REMEDY}")


def _refuse_other_identity(path: Path, found: CacheIdentity, expected: CacheIdentity) -> None:
    for field in fields(CacheIdentity):
        wanted, got = getattr(expected, field.name), getattr(found, field.name)
        if wanted == got:
            continue
        if field.name == "categories":
            raise CacheError(f"{path}: {_first_difference(wanted, got)}; {REMEDY}")
        raise CacheError(f"{path}: expected {field.name.replace('_', ' ')} {wanted}, got {got}; {REMEDY}")


def _first_difference(expected: CategorySet, found: CategorySet) -> str:
    for wanted, got in zip(expected.categories, found.categories, strict=False):
        if wanted != got:
            return f"expected other categories: {wanted}, got {got}"
    return f"expected {len(expected)} categories, got {len(found)}"
