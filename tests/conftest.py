"""What several test files need: real data where there is some, and panopticapi's score as an oracle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from panopticapi import evaluation


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with `cmp_facade` and `coco_sample`: ANTVISIONPS_REAL_DATA, else ../shared/data. Skips without it."""
    folder = Path(os.environ.get("ANTVISIONPS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data; ANTVISIONPS_REAL_DATA names a folder with cmp_facade and coco_sample")
    return folder


@pytest.fixture
def panopticapi_pq(monkeypatch):
    """panopticapi's `pq_compute`, in this process: its pool of workers is never closed."""

    def in_this_process(matched, gt_folder, pred_folder, categories):
        return evaluation.pq_compute_single_core(0, matched, gt_folder, pred_folder, categories)

    monkeypatch.setattr(evaluation, "pq_compute_multi_core", in_this_process)
    return evaluation.pq_compute
