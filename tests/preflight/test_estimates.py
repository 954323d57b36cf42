"""The arithmetic of `antvisionps check`."""

from types import SimpleNamespace

import pytest

from antvisionps.preflight.estimates import (
    CACHE_BYTES,
    REPORT_BYTES,
    disk_needs,
    extrapolated_peak_bytes,
    format_bytes,
    format_s,
)


@pytest.mark.parametrize(
    ("small", "large", "pixels", "training_bytes", "peak"),
    [
        ((6_000, 1_060), (24_000, 1_240), 600_000, 10, 7_000),  # 1,000 bytes and a hundredth of a byte a pixel
        ((1, 10), (2, 11), 3, 500, 500),  # at least what training holds
        ((1, 10), (2, 10), 3, 5, None),  # peaks that do not grow tell nothing
    ],
)
def test_a_peak_lies_on_the_line_through_two_measured_ones(small, large, pixels, training_bytes, peak):
    assert extrapolated_peak_bytes(small, large, pixels=pixels, training_bytes=training_bytes) == peak


def test_disk_needs_add_up():
    trials = [SimpleNamespace(kept_bytes=size, checkpoint_bytes=2 * size) for size in (100, 300)]
    images = SimpleNamespace(predicted=10_000, hw=(480, 640))
    needs = disk_needs(trials, images, ends=2, download_bytes=42)
    assert {what: num_bytes for what, num_bytes, _ in needs} == {
        "data to download": 42,
        "checkpoints of a training": 1_800,
        "trained weights, twice": 800,
        "cache of predictions, twice": 2 * 10_000 * 2 * CACHE_BYTES,
        "report page, twice": 2 * 10_000 * REPORT_BYTES,
    }


@pytest.mark.parametrize(
    ("function", "number", "formatted"),
    [
        *((format_bytes, *row) for row in ((0, "0 B"), (999, "999 B"), (46_100_000, "46.1 MB"), (5e15, "5e+03 TB"))),
        *((format_s, *row) for row in ((1.4, "1.4 s"), (119, "119 s"), (120, "2.0 minutes"), (9000, "2.5 hours"))),
        (format_s, 864_000, "10.0 days"),
    ],
)
def test_bytes_are_in_decimal_units_and_seconds_in_the_largest_that_fits_twice(function, number, formatted):
    assert function(number) == formatted
