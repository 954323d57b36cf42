"""Ids as data sets have them: whole numbers, of images also text; and what only looks like one."""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from antvisionps.core.file_names import CONTROL_CHARACTERS

Value = TypeVar("Value")

ImageId = int | str
"""What a data set calls an image."""

MAX_CATEGORY_ID = 2**31 - 1
"""The caches keep category ids in 32 bits."""

MAX_IMAGE_ID = 2**63 - 1
"""The caches keep image ids in 64 bits."""

MAX_PLAIN_ID = 2**53 - 1
"""Up to here every reader of JSON knows an id from the next one, also the report page in a browser."""


def whole_number(value: object) -> int:
    """The number. 5.0 is 5: pandas writes a column with gaps so. Raises ValueError on all else."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise ValueError(f"expected a whole number, got {_shown(value)}")


def parse_category_id(value: object) -> int:
    """Raises ValueError on what is no whole number from 0 to MAX_CATEGORY_ID."""
    category_id = whole_number(value)
    if not 0 <= category_id <= MAX_CATEGORY_ID:
        raise ValueError(f"expected a number from 0 to {MAX_CATEGORY_ID}, got {category_id}")
    return category_id


def parse_image_id(value: object) -> ImageId:
    """Raises ValueError on what is neither a whole number of 64 bits nor a line of text."""
    if isinstance(value, str):
        return one_line(value)
    try:
        image_id = whole_number(value)
    except ValueError:
        raise ValueError(f"expected a whole number or text, got {_shown(value)}") from None
    if abs(image_id) > MAX_IMAGE_ID:
        raise ValueError(f"expected a number of at most {MAX_IMAGE_ID}, got {image_id}")
    return image_id


def one_line(text: object) -> str:
    """The text. Raises ValueError where it is none, is empty or holds control characters or half a character."""
    if not isinstance(text, str) or not text or CONTROL_CHARACTERS.search(text):
        raise ValueError(f"expected a line of text, got {str(text)[:80]!r}")
    return text


def number_ids(image_ids: Iterable[ImageId]) -> dict[ImageId, int]:
    """The ids of a split in their order → the number that its images have inside.

    That is the id itself if all are whole numbers from 0 to MAX_PLAIN_ID, else, as with text, the place from 1 on.
    """
    ordered = sorted(image_ids)
    if all(isinstance(image_id, int) and 0 <= image_id <= MAX_PLAIN_ID for image_id in ordered):
        return {image_id: int(image_id) for image_id in ordered}
    return {image_id: place for place, image_id in enumerate(ordered, start=1)}


def refuse_other_kind(image_id: ImageId, known: Collection[ImageId]) -> None:
    """Raises ValueError where one of text and numbers is among the known ids and the other is asked for."""
    first = next(iter(known), image_id)
    if isinstance(image_id, str) != isinstance(first, str):
        difference = "text, images have number" if isinstance(image_id, str) else "a number, images have text"
        raise ValueError(f"{image_id!r} is {difference} ids, as {first!r}; give both the same type")


def find_by_id(image_id: object, image_of: Mapping[ImageId, Value]) -> Value:
    """The split's image of an id that another tool wrote. Raises ValueError where there is none."""
    parsed = parse_image_id(image_id)
    refuse_other_kind(parsed, image_of)
    if parsed not in image_of:
        raise ValueError(f"{parsed!r} is not in this split; predict the split's images only")
    return image_of[parsed]


def _shown(value: object) -> str:
    shown = repr(value)[:80]
    return f"text {shown}" if isinstance(value, str) else shown
