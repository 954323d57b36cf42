"""Damage to files: of bytes, of JSON, of CSV and of Parquet. Every function is pure but for the generator."""

import csv
import io
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Mutation = Callable[[bytes, Random], bytes]

NESTED = "[" * 200_000
LONG_NUMBER = "9" * 5_000

WRONG_VALUES: tuple[Any, ...] = (
    *(None, {}, [], [[]], "", "x", "1", True, False, -1, 1.9, 2**31, 2**63, 10**30),
    *(float("nan"), float("inf"), -float("inf"), 3e38, {"id": 1}, [None], "\ud800", "../../x", "/x", "a\0b"),
)
"""Stands in a JSON where something else is expected; most are wrong everywhere."""


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero_range(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 16, 4096)))
    return data[:start] + bytes(end - start) + data[end:]


def cut_out(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 7, 512)) :]


def insert_bytes(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice((1, 16, 512))) + data[start:]


def append_bytes(data: bytes, rng: Random) -> bytes:
    return data + rng.randbytes(64)


def empty(data: bytes, rng: Random) -> bytes:
    return b""


BYTES: tuple[Mutation, ...] = (truncate, flip_bits, flip_bits, zero_range, cut_out, insert_bytes, append_bytes, empty)


def places_of(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document, its own included."""
    children = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, child in children for place in places_of(child, (*path, key)))]


def replaced(document: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """The document with another value at `path`."""
    if not path:
        return change(document)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = change(parent[path[-1]])
    return document


def a_place(document: Any, rng: Random) -> tuple[Any, ...]:
    """Any of a document's values; those near its root are likelier than their number."""
    places = places_of(document)
    depth = rng.randrange(1 + max(map(len, places)))
    return rng.choice([place for place in places if len(place) <= depth])


def wrong_value(data: bytes, rng: Random) -> bytes:
    document = json.loads(data)
    value = rng.choice(WRONG_VALUES)
    return json.dumps(replaced(document, a_place(document, rng), lambda _: value)).encode()


def left_out(data: bytes, rng: Random) -> bytes:
    """Without one key or element."""
    document = json.loads(data)
    *parent, key = rng.choice([place for place in places_of(document) if place])

    def without(value: Any) -> Any:
        value.pop(key)
        return value

    return json.dumps(replaced(document, tuple(parent), without)).encode()


def twice(data: bytes, rng: Random) -> bytes:
    """With one element of a list twice, or one key of an object."""
    document = json.loads(data)
    *parent, key = rng.choice([place for place in places_of(document) if place])

    def doubled(value: Any) -> Any:
        return [*value, value[key]] if isinstance(value, list) else value | {f"{key}{key}": value[key]}

    return json.dumps(replaced(document, tuple(parent), doubled)).encode()


def raw_text(data: bytes, rng: Random) -> bytes:
    """With a value that Python's json does not write: too deep, too long, no number."""
    document = json.loads(data)
    text = json.dumps(replaced(document, a_place(document, rng), lambda _: "HERE"))
    return text.replace('"HERE"', rng.choice((NESTED, LONG_NUMBER, "1e999", "01", "'x'", "")), 1).encode()


JSON: tuple[Mutation, ...] = (wrong_value, wrong_value, wrong_value, wrong_value, left_out, left_out, twice, raw_text)


def csv_cell(data: bytes, rng: Random) -> bytes:
    text = data.decode()
    delimiter = "\t" if "\t" in text else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(("", "x", "nan", "inf", "-1", "1e999", LONG_NUMBER, "a,b", 'a"b', "\0"))
    if rng.random() < 0.3:
        row.append("more")
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return written.getvalue().encode()


CSV: tuple[Mutation, ...] = (csv_cell,) * 4


def _rewrite(data: bytes, change: Callable[[pa.Table], pa.Table]) -> bytes:
    source = pq.ParquetFile(io.BytesIO(data))
    metadata = dict(source.metadata.metadata or {})
    metadata.pop(b"ARROW:schema", None)
    written = io.BytesIO()
    table = change(source.read())
    pq.write_table(table.replace_schema_metadata(metadata | dict(table.schema.metadata or {})), written)
    return written.getvalue()


def _wrong_cells(kind: pa.DataType) -> tuple[Any, ...]:
    if pa.types.is_floating(kind):
        return (float("nan"), float("inf"), -1.0, 0.0, 3e38)
    if pa.types.is_integer(kind):
        return (-1, 0, 2 ** (kind.bit_width - 1) - 1, -(2 ** (kind.bit_width - 1)), 12_345)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return ([],) if pa.types.is_list(kind) else ([float("nan")] * kind.list_size, [2.0**31] * kind.list_size)
    if pa.types.is_boolean(kind):
        return (None,)
    return (b"", b"x", b"\xff" * 40) if pa.types.is_binary(kind) else ("", "x", "../x")


def parquet_cell(data: bytes, rng: Random) -> bytes:
    def change(table: pa.Table) -> pa.Table:
        column = rng.randrange(table.num_columns)
        field = table.schema.field(column)
        values = table.column(column).to_pylist()
        if values:
            values[rng.randrange(len(values))] = rng.choice((*_wrong_cells(field.type), None))
        nullable = pa.field(field.name, field.type, nullable=field.nullable or None in values)
        return table.set_column(column, nullable, pa.array(values, field.type))

    return _rewrite(data, change)


def parquet_rows(data: bytes, rng: Random) -> bytes:
    """With rows lost, twice or in another order."""

    def change(table: pa.Table) -> pa.Table:
        order = list(range(table.num_rows))
        if not order:
            return table
        at = rng.randrange(len(order))
        other: list[list[int]] = [order[:at], order[at:], order[: at + 1] + order[at:], order[::-1]]
        return table.take(pa.array(rng.choice(other), pa.int64()))

    return _rewrite(data, change)


def parquet_columns(data: bytes, rng: Random) -> bytes:
    """With a column lost, renamed or of another type."""

    def change(table: pa.Table) -> pa.Table:
        column = rng.randrange(table.num_columns)
        name = table.column_names[column]
        kind = rng.choice((pa.string(), pa.null()))
        nothing = pa.nulls(table.num_rows, kind)
        return rng.choice(
            (
                table.remove_column(column),
                table.rename_columns([*table.column_names[:column], "x", *table.column_names[column + 1 :]]),
                table.set_column(column, name, nothing),
            )
        )

    return _rewrite(data, change)


def parquet_metadata(data: bytes, rng: Random) -> bytes:
    """With a value of the footer's metadata lost or another."""

    def change(table: pa.Table) -> pa.Table:
        metadata = dict(pq.ParquetFile(io.BytesIO(data)).metadata.metadata or {})
        metadata.pop(b"ARROW:schema", None)
        key = rng.choice([*metadata, b"more"])
        metadata[key] = rng.choice((b"", b"{}", b"null", b"[]", b"x", b"\xff\xfe", b"2", b"9" * 5_000, b"[" * 100_000))
        return table.replace_schema_metadata(metadata)

    return _rewrite(data, change)


PARQUET: tuple[Mutation, ...] = (parquet_cell,) * 5 + (parquet_rows, parquet_rows, parquet_columns, parquet_metadata)
