"""The arithmetic of `antvisionps check`."""

from __future__ import annotations

import pytest

from antvisionps.preflight.estimates import (
    CACHE_BYTES,
    REPORT_BYTES,
    disk_needs,
    extrapolated_peak_bytes,
    format_bytes,
    format_s,
)


def test_a_peak_lies_on_the_line_through_two_measured_ones():
    small, large = (6_000, 1_060), (24_000, 1_240)  # 1,000 bytes and a hundredth of a byte a pixel
    assert extrapolated_peak_bytes(small, large, pixels=600_000, training_bytes=10) == 7_000


def test_a_peak_is_at_least_what_training_holds():
    assert extrapolated_peak_bytes((1, 10), (2, 11), pixels=3, training_bytes=500) == 500


def test_peaks_that_do_not_grow_tell_nothing():
    assert extrapolated_peak_bytes((1, 10), (2, 10), pixels=3, training_bytes=5) is None


def test_disk_needs_add_up():
    needs = disk_needs(
        weights_bytes=[100, 300],
        checkpoint_bytes=[200, 600],
        ends=2,
        images=10_000,
        hw=(480, 640),
        download_bytes=42,
    )
    assert {need.what: need.num_bytes for need in needs} == {
        "data to download": 42,
        "checkpoints of a training": 1_800,
        "trained weights, twice": 800,
        "cache of predictions, twice": 2 * 10_000 * 2 * CACHE_BYTES,
        "report page, twice": 2 * 10_000 * REPORT_BYTES,
    }


@pytest.mark.parametrize(
    ("num_bytes", "formatted"),
    [(0, "0 B"), (999, "999 B"), (46_100_000, "46.1 MB"), (5e15, "5e+03 TB")],
)
def test_bytes_are_formatted_in_decimal_units(num_bytes, formatted):
    assert format_bytes(num_bytes) == formatted


@pytest.mark.parametrize(
    ("seconds", "formatted"),
    [(1.4, "1.4 s"), (119, "119 s"), (120, "2.0 minutes"), (9000, "2.5 hours"), (864_000, "10.0 days")],
)
def test_seconds_are_formatted_in_the_largest_unit_that_fits_twice(seconds, formatted):
    assert format_s(seconds) == formatted
