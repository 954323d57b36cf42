"""Parquet files of our own stages: written in row groups, and read with the remedy in the error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.core.errors import AntVisionPSError, clipped, clipped_text, first_line
from antvisionps.core.input_files import refuse_other_than_file


@contextmanager
def write_groups(
    path: Path, schema: pa.Schema, to_columns: Callable[[list[Any]], list[Any]], *, size: int, **options: Any
) -> Iterator[Callable[[Any], None]]:
    """Yields what appends an item; `size` of them, of which `to_columns` makes the columns, are a row group."""
    pending: list[Any] = []

    def flush() -> None:
        table = pa.table(to_columns(pending), schema=schema)
        writer.write_table(table, row_group_size=max(1, len(table)))
        pending.clear()

    def write(item: Any) -> None:
        pending.append(item)
        if len(pending) == size:
            flush()

    with pq.ParquetWriter(path, schema, write_page_checksum=True, **options) as writer:
        yield write
        if pending:
            flush()


class ParquetReader(AbstractContextManager["ParquetReader"]):
    """An open Parquet file. Raises `error`, when opened or when rows are read, on a file that is missing or damaged, of
    another version than the text that `version` gives under its key of the metadata, or of other columns than
    `schema`. Every message ends with the `remedy`; `version_remedy` is the one for another version."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        remedy: str,
        error: type[AntVisionPSError],
        version: tuple[str, str] | None = None,
        version_remedy: str | None = None,
    ) -> None:
        self.path, self._remedy, self._error = path, remedy, error
        try:
            refuse_other_than_file(path)
            # Buffered ahead, each column is copied once more.
            self._file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        except FileNotFoundError:
            raise error(f"{path}: no such file; {remedy}") from None
        except (pa.ArrowException, OSError) as problem:
            raise error(f"{path}: not a whole Parquet file ({first_line(problem)}); {remedy}") from problem
        try:
            raw = self._file.metadata.metadata or {}
            self.metadata = {key.decode(): value.decode() for key, value in raw.items()}
            self._found = self._file.schema_arrow.remove_metadata()
        except (pa.ArrowException, UnicodeDecodeError) as problem:
            raise error(f"{path}: its footer is damaged ({first_line(problem)}); {remedy}") from problem
        self.rows_of_group = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        if version is not None and self.metadata.get(version[0]) != version[1]:
            got = clipped_text(self.metadata.get(version[0], "none"))
            raise error(f"{path}: expected schema version {version[1]}, got {got}; {version_remedy or remedy}")
        self._refuse_other_columns(schema.remove_metadata())

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of these; texts are UTF-8."""
        try:
            table = self._file.read(columns=columns)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as problem:
            raise self._error(f"{self.path}: damaged ({first_line(problem)}); {self._remedy}") from problem
        self._refuse_other_count(len(table), sum(self.rows_of_group))
        return table

    def read_group(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one row group."""
        try:
            table = self._file.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as problem:
            raise self._error(
                f"{self.path}: row group {group} is damaged ({first_line(problem)}); {self._remedy}"
            ) from problem
        self._refuse_other_count(len(table), self.rows_of_group[group])
        return table

    def _refuse_other_count(self, got: int, expected: int) -> None:
        if got != expected:
            raise self._error(f"{self.path}: its footer counts {expected} rows where {got} are; {self._remedy}")

    def _refuse_other_columns(self, expected: pa.Schema) -> None:
        found = self._found
        if found == expected:
            return
        for field in expected:
            index = found.get_field_index(field.name)
            if index < 0 or found.field(index) != field:
                got = "none" if index < 0 else found.field(index).type
                raise self._error(
                    f"{self.path}: expected a column {field.name} of {field.type}, got {got}; {self._remedy}"
                )
        more = clipped([name for name in found.names if name not in expected.names])
        raise self._error(f"{self.path}: expected the columns {expected.names} alone, got also {more}; {self._remedy}")
