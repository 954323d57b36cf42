"""Numbers as tools write them into JSON: 3.0 is the whole number 3; text, true and NaN are none."""

import math
from typing import Any


def whole_number(value: Any) -> int | None:
    """The whole number, None where it is none."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def number(value: Any) -> float | None:
    """The finite number, None where it is none."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
