"""What the comparison of fusion's methods prints."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.panoptic_quality import MatchCounts
from benchmarks.fusion_methods import with_interval


def test_the_comparison_of_methods_gives_intervals_of_differences():
    one = np.array([1])
    images = [MatchCounts(one, one, one, one, np.array([iou])) for iou in (0.6, 0.75, 0.9)]
    draws = draw_images(3, samples=50, seed=0)
    assert with_interval(images, draws, [1]).startswith("37.5 (")
    assert with_interval(images, draws, [1], minus=images) == "+0.0 (+0.0 to +0.0)"
