"""What a run needs of disk, memory and time, each with the arithmetic it comes from. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CACHE_BYTES, CACHE_PIXELS = 173_000, 480 * 640
"""Of one end's predictions of an image, and that image's pixels: half of what `python benchmarks/fusion.py` prints as
the cache of both ends."""

REPORT_BYTES = 109_000
"""Of the report page's maps and segments of an image of that size, as `python benchmarks/report_page.py` prints it."""

CHECKPOINTS_AT_ONCE = 3
"""mmengine keeps two, and writes the next before it removes the older."""

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Estimate:
    """A line of the table: how much of what, and how that is known."""

    quantity: str
    amount: str
    source: str


@dataclass(frozen=True)
class DiskNeed:
    what: str
    num_bytes: int
    source: str


def disk_needs(
    *,
    weights_bytes: Sequence[int],
    checkpoint_bytes: Sequence[int],
    ends: int,
    images: int,
    hw: tuple[int, int],
    download_bytes: int,
) -> list[DiskNeed]:
    """Of a whole run: `images` are predicted by each of the ends, `hw` is their usual size."""
    scale = hw[0] * hw[1] / CACHE_PIXELS
    needs = [
        DiskNeed("data to download", download_bytes, "archives and their contents; half of it stays"),
        DiskNeed(
            "checkpoints of a training",
            CHECKPOINTS_AT_ONCE * max(checkpoint_bytes),
            f"{CHECKPOINTS_AT_ONCE} at once x weights and optimiser state of the largest network, "
            f"{format_bytes(max(checkpoint_bytes))}, counted",
        ),
        DiskNeed(
            "trained weights, twice",
            2 * sum(weights_bytes),
            f"state dicts of {len(weights_bytes)} networks, counted; in data/ and in DVC's cache",
        ),
        DiskNeed(
            "cache of predictions, twice",
            round(2 * images * ends * CACHE_BYTES * scale),
            f"{images:,} images x {ends} ends x {format_bytes(CACHE_BYTES)} x {scale:.2f} for the size",
        ),
        DiskNeed(
            "report page, twice",
            round(2 * images * REPORT_BYTES * scale),
            f"at most {format_bytes(REPORT_BYTES)} an image x {scale:.2f}",
        ),
    ]  # fmt: skip
    return [need for need in needs if need.num_bytes]


def extrapolated_peak_bytes(
    small: tuple[int, int], large: tuple[int, int], *, pixels: int, training_bytes: int
) -> int | None:
    """The peak at `pixels` a step, from (pixels, peak bytes) of two steps: a line through them, and at least what stays
    in memory anyway. None where the larger step did not take more."""
    (few, low), (many, high) = small, large
    if many <= few or high <= low:
        return None
    return max(training_bytes, round(high + (high - low) / (many - few) * (pixels - many)))


def format_bytes(num_bytes: float) -> str:
    """`1.9 GB`, decimal."""
    for unit in UNITS[:-1]:
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {UNITS[-1]}"


def format_s(seconds: float) -> str:
    """`3.2 days`, `4.1 hours`, `12 minutes`, `1.4 s`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
