"""Numbers as tools write them into JSON: text, true and NaN are none."""

import math
from typing import Any


def number(value: Any) -> float | None:
    """The finite number, None where it is none."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
