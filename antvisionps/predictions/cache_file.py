"""A file of the cache, of instances or of semantics: written image by image, read by image.

It stands under its name only when whole. Its metadata list its images, also those without a row.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import CacheError, first_line
from antvisionps.core.json_files import parse_json
from antvisionps.core.parquet_files import ParquetReader
from antvisionps.predictions.schema import PREFIX, REMEDY, SCHEMA_VERSION, VERSION_REMEDY, CacheHeader, CacheIdentity

_IMAGES_PER_ROW_GROUP = 32
_BYTES_PER_ROW_GROUP = 4 * 2**20
"""What is decoded to read one image, at most, but for an image that is larger by itself."""

_MAX_SIDE_PX = 2**20
_IMAGES = PREFIX + "images"
_INDEX_COLUMNS = ("image_id", "height", "width", "rows")

ColumnsOfRows = dict[str, Any]
"""Columns of some rows: arrays (n,) or (n, k) where a row has a number or k of them, else Arrow's."""


@dataclass(frozen=True, eq=False)
class CachedImage:
    """What both kinds of predictions tell of their image: its id, and its original size."""

    image_id: int
    height: int
    width: int


Image = TypeVar("Image", bound=CachedImage)


class CacheWriter(AbstractContextManager["CacheWriter[Image]"], Generic[Image]):
    """A Parquet file written in bounded memory; it takes its name when the block ends without error."""

    def __init__(self, path: Path, header: CacheHeader, schema: pa.Schema, **compression: Any) -> None:
        self.path = path
        self.header = header
        self._schema = schema.with_metadata(header.to_metadata())
        self._compression = compression
        self._pending: list[pa.RecordBatch] = []
        self._index: dict[str, list[int]] = {name: [] for name in _INDEX_COLUMNS}

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            unfinished = opened.enter_context(atomic_file(self.path))
            options = {"use_dictionary": False, "write_statistics": ["image_id"], "write_page_checksum": True}
            self._parquet = opened.enter_context(
                pq.ParquetWriter(unfinished, self._schema, **options, **self._compression)
            )
            opened.push(self._finish)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._parquet.add_key_value_metadata({_IMAGES: json.dumps(self._index, separators=(",", ":"))})

    @abstractmethod
    def _to_rows(self, image: Image) -> pa.RecordBatch:
        """What the file holds of an image. Raises CacheError on a category that it must not hold."""

    def write(self, image: Image) -> None:
        """Appends one image; every image of the split has to be written, also one in which nothing was found.

        Image ids have to ascend. Raises CacheError also on a category that the file must not hold.
        """
        last = self._index["image_id"][-1:]
        if last and image.image_id <= last[0]:
            raise CacheError(
                f"{self.path}: image {image.image_id} written after image {last[0]}; write images in ascending id, "
                "each once"
            )
        rows = self._to_rows(image)
        described = (image.image_id, image.height, image.width, len(rows))
        for name, value in zip(_INDEX_COLUMNS, described, strict=True):
            self._index[name].append(int(value))
        pending_bytes = sum(pending.nbytes for pending in self._pending)
        if len(self._pending) == _IMAGES_PER_ROW_GROUP or pending_bytes + rows.nbytes > _BYTES_PER_ROW_GROUP:
            self._flush()
        self._pending.append(rows)

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._pending, schema=self._schema)
        if len(table):
            self._parquet.write_table(table, row_group_size=len(table))
        self._pending = []


class CacheReader(AbstractContextManager["CacheReader[Image]"], Generic[Image]):
    """The images of a cache file in ascending image_id, read one row group at a time.

    `expect` and `images` (image_id → (height, width) of the whole split) are what the file is checked against; what is
    None is not checked. `columns` are read. Raises CacheError, when opened or when an image is read.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        expect: CacheIdentity | None,
        images: Mapping[int, tuple[int, int]] | None,
        columns: list[str],
    ) -> None:
        self.path = path
        self._columns = columns
        version = (PREFIX + "schema_version", str(SCHEMA_VERSION))
        self._parquet = ParquetReader(
            path, schema, remedy=REMEDY, error=CacheError, version=version, version_remedy=VERSION_REMEDY
        )
        self.header = CacheHeader.from_metadata(path, self._parquet.metadata)
        if expect is not None:
            expect.refuse_other(self.header, path)
        self._schema = schema
        self._read_index()
        if images is not None:
            self._refuse_other_images(images)
        self._group_index, self._group = -1, ColumnsOfRows()

    def _refuse_bad_rows(self, rows: ColumnsOfRows) -> None:
        """Raises CacheError, without the place, where the rows of some images hold what they must not."""

    @abstractmethod
    def _build(self, image_id: int, height: int, width: int, rows: ColumnsOfRows) -> Image:
        """One image of its rows. Raises CacheError without the place, which `read` adds."""

    def __exit__(self, *_: object) -> None:
        self._parquet.__exit__()

    def __len__(self) -> int:
        return len(self._image_ids)

    def __iter__(self) -> Iterator[Image]:
        return map(self.read, self.image_ids)

    @property
    def image_ids(self) -> list[int]:
        """Every image that was predicted, also those in which nothing was found, ascending."""
        ids: list[int] = self._image_ids.tolist()
        return ids

    def read_table(self, columns: list[str] | None = None) -> pa.Table:
        """The whole file, or these columns of it, as they are stored. Raises CacheError on a damaged file."""
        return self._parquet.read(columns)

    def read(self, image_id: int) -> Image:
        """The predictions of one image. Reading in ascending order touches every row group once."""
        position = int(np.searchsorted(self._image_ids, image_id))
        if position == len(self) or self._image_ids[position] != image_id:
            raise CacheError(
                f"{self.path}: image {self.header.source_id(image_id)} is missing from the cache; {REMEDY}"
            )
        height, width = self._image_hw[position].tolist()
        first, stop = self._first_row[position : position + 2].tolist()
        try:
            return self._build(image_id, height, width, self._rows(first, stop))
        except CacheError as error:
            raise CacheError(f"{self.path}: {error}; {REMEDY}") from error

    def _rows(self, first: int, stop: int) -> ColumnsOfRows:
        group = int(np.searchsorted(self._first_row_of_group[1:-1], first, side="right"))
        if group != self._group_index:
            self._group, self._group_index = self._read_group(group), group
        first_of_group = int(self._first_row_of_group[group])
        return {name: column[first - first_of_group : stop - first_of_group] for name, column in self._group.items()}

    def _read_group(self, group: int) -> ColumnsOfRows:
        """The rows of a row group, whose small columns are checked here, all at once. Raises CacheError without the
        place."""
        if not self._parquet.rows_of_group:
            return _take_apart(self._schema.empty_table())
        rows = _take_apart(self._parquet.read_group(group, self._columns))
        images = slice(*np.searchsorted(self._first_row, self._first_row_of_group[group : group + 2]))
        counts = np.diff(self._first_row[images.start : images.stop + 1])
        image_ids, (heights, widths) = self._image_ids[images], self._image_hw[images].T
        for name, values in (("image_id", image_ids), ("height", heights), ("width", widths)):
            is_other = rows[name] != np.repeat(values, counts)
            if is_other.any():
                image_id = np.repeat(image_ids, counts)[np.argmax(is_other)]
                raise CacheError(f"image {image_id}: rows with another {name} stand in its place")
        self._refuse_bad_rows(rows)
        return rows

    def _read_index(self) -> None:
        """The list of images; raises CacheError where it is damaged or the file's rows are not as many."""
        try:
            index = parse_json(self._parquet.metadata[_IMAGES])
            self._image_ids, heights, widths, counts = (_whole_numbers(index[name]) for name in _INDEX_COLUMNS)
            self._image_hw = np.stack([heights, widths], axis=1)
            self._first_row = np.append(0, np.cumsum(counts))
            if not len(self._image_ids) == len(heights) == len(counts):
                raise ValueError("its columns are of different lengths")
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise CacheError(f"{self.path}: its list of images is damaged ({first_line(error)}); {REMEDY}") from error
        if not ((self._image_hw >= 1) & (self._image_hw <= _MAX_SIDE_PX)).all():
            raise CacheError(f"{self.path}: its list of images names sizes that no image has; {REMEDY}")
        disordered = np.flatnonzero(np.diff(self._image_ids) <= 0)
        if len(disordered):
            before, image_id = self._image_ids[disordered[0] :][:2].tolist()
            what = "appears twice" if image_id == before else f"comes after image {before}, out of order"
            raise CacheError(f"{self.path}: image {image_id} {what}; {REMEDY}")
        if (counts < 0).any():
            raise CacheError(f"{self.path}: its list of images counts fewer rows than none; {REMEDY}")
        self._first_row_of_group = np.append(0, np.cumsum(self._parquet.rows_of_group, dtype=np.int64))
        expected, got = self._first_row[-1], self._first_row_of_group[-1]
        if expected != got:
            raise CacheError(f"{self.path}: expected {expected} rows for its {len(self)} images, got {got}; {REMEDY}")
        if not np.isin(self._first_row_of_group, self._first_row).all():
            raise CacheError(f"{self.path}: an image is torn between two row groups; {REMEDY}")

    def _refuse_other_images(self, images: Mapping[int, tuple[int, int]]) -> None:
        found = dict(zip(self.image_ids, map(tuple, self._image_hw.tolist()), strict=True))
        if found == images:
            return
        for image_id in sorted(images.keys() | found.keys()):
            expected, got = images.get(image_id), found.get(image_id)
            where = f"{self.path}: image {self.header.source_id(image_id)}"
            if got is None:
                raise CacheError(f"{where} of split {self.header.split} is missing from the cache; {REMEDY}")
            if expected is None:
                raise CacheError(f"{where} is not in split {self.header.split}; {REMEDY}")
            if expected != got:
                raise CacheError(
                    f"{where}: expected (height, width) {expected} as in the annotation, got {got}; {REMEDY}"
                )


def _whole_numbers(values: Any) -> np.ndarray:
    """(n,) int64 of a list in a JSON. Raises TypeError or OverflowError on all else, of which numpy takes some."""
    if type(values) is not list or set(map(type, values)) - {int}:
        raise TypeError("expected lists of whole numbers")
    return np.array(values, dtype=np.int64)


def _take_apart(table: pa.Table) -> ColumnsOfRows:
    """Once a row group: each look into an Arrow table costs microseconds. By DLPack, as Arrow's `to_numpy` and
    `flatten` import pandas and pyarrow.compute."""
    columns: ColumnsOfRows = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_primitive(column.type):
            columns[name] = np.from_dlpack(column.combine_chunks())
        elif pa.types.is_fixed_size_list(column.type):
            values = np.from_dlpack(column.combine_chunks().values)
            columns[name] = values.reshape(-1, column.type.list_size)
        else:
            columns[name] = column
    return columns
