"""The categories of a data set, things and stuff, and how a model numbers them.

A `category_id` is the data set's own number (any integer from 0 on). A `class_index` is a position in a model's output:
things first, then stuff, each in ascending category_id. So the first `len(things)` class indices are the detector's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.panoptic.ids import parse_category_id, whole_number

VOID_SEGMENT_ID = 0
"""Segment id of unlabelled pixels in the COCO panoptic format."""

VOID_CLASS_INDEX = 255
"""Class index of unlabelled pixels in a semantic map (uint8), left out of every loss."""

MAX_CATEGORIES = 255
"""Class indices are stored as uint8 and 255 is void."""


@dataclass(frozen=True, slots=True)
class Category:
    category_id: int
    name: str
    is_thing: bool
    color_rgb: tuple[int, int, int]


@dataclass(frozen=True)
class CategorySet:
    """Categories in class-index order. Build it with `from_json`, which sorts and checks them."""

    categories: tuple[Category, ...]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]], *, where: str) -> CategorySet:
        """The categories of a COCO panoptic JSON (`id`, `name`, `isthing`, optional `color`).

        `where` names the file in errors. Raises DataError on an empty list, a missing key, an id that is no whole
        number from 0 on or beyond 32 bits, a duplicate id or name, or more categories than a uint8 class map can hold.
        """
        categories = [_parse_category(row, where) for row in rows]
        if not 1 <= len(categories) <= MAX_CATEGORIES:
            raise DataError(f"{where}: expected 1 to {MAX_CATEGORIES} categories, got {len(categories)}")
        refuse_duplicates([c.category_id for c in categories], "category id", where)
        refuse_duplicates([c.name for c in categories], "category name", where)
        categories.sort(key=lambda c: (not c.is_thing, c.category_id))
        return cls(tuple(categories))

    def to_json(self) -> list[dict[str, Any]]:
        """The same categories as COCO panoptic JSON rows, in ascending category id."""
        return [
            {"id": c.category_id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color_rgb)}
            for c in sorted(self.categories, key=lambda c: c.category_id)
        ]

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def things(self) -> tuple[Category, ...]:
        return tuple(c for c in self.categories if c.is_thing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        return tuple(c for c in self.categories if not c.is_thing)

    @cached_property
    def named(self) -> frozenset[tuple[int, str, bool]]:
        """The id, the name and whether it is a thing of each: all but colours."""
        return frozenset((c.category_id, c.name, c.is_thing) for c in self.categories)

    @cached_property
    def thing_ids(self) -> frozenset[int]:
        return frozenset(c.category_id for c in self.things)

    @cached_property
    def category_ids(self) -> np.ndarray:
        """(C,) int32, category id of each class index."""
        return np.array([c.category_id for c in self.categories], dtype=np.int32)

    @cached_property
    def _class_index_of(self) -> dict[int, int]:
        return {c.category_id: index for index, c in enumerate(self.categories)}

    def __contains__(self, category_id: object) -> bool:
        return category_id in self._class_index_of

    def class_index(self, category_id: int) -> int:
        """Class index of a category. Raises KeyError on an unknown category id."""
        return self._class_index_of[category_id]

    def by_id(self, category_id: int) -> Category:
        """The category of that id. Raises KeyError on an unknown category id."""
        return self.categories[self._class_index_of[category_id]]


def json_flag(value: object) -> bool:
    """What 0, 1, false or true in a JSON means. Raises ValueError on all else: "0" and "false" would count as true."""
    if type(value) not in (int, bool, float) or value not in (0, 1):
        raise ValueError(f"expected 0, 1, false or true, got {value!r}")
    return bool(value)


def _parse_category(row: Any, where: str) -> Category:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected a category with id, name and isthing, got {str(row)[:80]}")
    where = f"{where}: category {row.get('id')!r} ({row.get('name')!r})"
    try:
        category_id = _parse(row, "id", parse_category_id)
        name, is_thing = _parse(row, "name", _parse_name), _parse(row, "isthing", json_flag)
        color = _default_color(category_id) if row.get("color") is None else _parse(row, "color", _parse_color)
    except ValueError as error:
        raise DataError(f"{where}: {error}; correct `categories`") from error
    return Category(category_id, name, is_thing, color)


Value = TypeVar("Value")


def _parse(row: Mapping[str, Any], key: str, parse: Callable[[Any], Value]) -> Value:
    """Raises ValueError that names the key."""
    if key not in row:
        raise ValueError(f"no {key!r}")
    try:
        return parse(row[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _parse_name(value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"expected text, got {value!r}")
    if not value and isinstance(value, str):
        raise ValueError("expected text, got none")
    str(value).encode()  # UnicodeEncodeError, a ValueError, on half a character
    return str(value)


def _parse_color(value: object) -> tuple[int, int, int]:
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):  # as COCO Annotator writes it
        value = list(bytes.fromhex(value[1:]))
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(f"expected [r, g, b], got {value!r}")
    red, green, blue = map(whole_number, value)
    if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
        raise ValueError(f"expected [r, g, b] from 0 to 255, got {value!r}")
    return red, green, blue


def _default_color(category_id: int) -> tuple[int, int, int]:
    """A colour of its own for each category that names none: hues a golden angle apart."""
    hue = (category_id * 0.618034) % 1.0
    return tuple(int(127 + 100 * np.cos(2 * np.pi * (hue - shift / 3))) for shift in range(3))  # type: ignore[return-value]


def refuse_duplicates(values: Iterable[Any], what: str, where: str) -> None:
    """Raises DataError on a value that is there twice; `what` names the values, `where` their file."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{where}: {what} {value!r} appears twice; every one must be unique")
        seen.add(value)
