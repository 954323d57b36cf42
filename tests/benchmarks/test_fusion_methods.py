"""What the comparison of fusion's methods prints."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.predictions.split_caches import SplitCaches
from benchmarks.fusion_methods import bytes_an_image, with_interval
from tests.pipeline.workspace import ENDS, cached_instances


def test_the_comparison_of_methods_gives_sizes_and_intervals_of_differences(done):
    caches = SplitCaches.open(done.predictions, done.prepared, "val")
    truth = caches.dataset
    cache, maps, results = bytes_an_image(caches, list(ENDS)).values()
    files = [path for end in ENDS for path in (done.predictions / end / "val").iterdir()]
    assert cache == sum(path.stat().st_size for path in files) / len(truth.images)
    assert maps == 2 * len(ENDS) * len(truth.categories) * 96 * 128
    rles = [len(row["rle"]) for end in ENDS for rows in cached_instances(done, end).values() for row in rows]
    assert sum(rles) < results * len(truth.images) < sum(rles) + 250 * len(rles)

    one = np.array([1])
    images = [MatchCounts(one, one, one, one, np.array([iou])) for iou in (0.6, 0.75, 0.9)]
    draws = draw_images(3, samples=50, seed=0)
    assert with_interval(images, draws, [1]).startswith("37.5 (")
    assert with_interval(images, draws, [1], minus=images) == "+0.0 (+0.0 to +0.0)"
