"""Progress bars that also make sense in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
"""Between two refreshes in a log file, where each refresh is a line."""


def progress(
    items: Iterable[Any] | None = None, *, description: str | None, total: int | None, unit: str, **bar: Any
) -> tqdm:
    """A bar over `items`; without items the caller calls `update`. A log file gets a line every ten seconds.

    Without a description it shows nothing.
    """
    bar.setdefault("disable", description is None)
    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(items, desc=description, total=total, unit=unit, mininterval=interval, maxinterval=2 * interval, **bar)
