"""How well `fuse.doubt` finds the pixels that a panoptic map has wrong.

    python -m benchmarks.doubt --prepared data/prepared --fused data/fused/fusion

For the most doubtful parts of all labelled val pixels: how many of them have another category than the truth, or none,
and what part of all such pixels they hold. A doubt without meaning holds as large a part of these as of all pixels.
"""

import argparse
from pathlib import Path

import numpy as np

from antvisionps.core.progress import progress
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.fused_files import open_fused, read_doubt

PARTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
LEVELS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"))
    parser.add_argument("--fused", type=Path, default=Path("data/fused/fusion"))
    arguments = parser.parse_args()
    pixels, wrong = count_by_doubt(arguments.prepared, arguments.fused)
    print(f"{100 * wrong.sum() / pixels.sum():.1f} % of {pixels.sum():,} labelled pixels are wrong")
    print("most doubtful   of them wrong   of all wrong pixels")
    for part in PARTS:
        found = most_doubtful(part, pixels, wrong)
        print(f"{100 * part:11.0f} %{100 * found / (part * pixels.sum()):14.1f} %{100 * found / wrong.sum():20.1f} %")


def count_by_doubt(prepared: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(LEVELS,) how many labelled pixels of val have each doubt, and how many of those are wrong."""
    truth = open_split(prepared, "val")
    fused = open_fused(folder, truth)
    pixels, wrong = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    pairs = zip(truth.images, fused.images, strict=True)
    for gt_image, image in progress(pairs, description="doubt", total=len(truth.images), unit="image"):
        doubt = read_doubt(fused, image)
        gt = class_index_map(truth.load_segment_ids(gt_image), gt_image, truth.categories)
        found = class_index_map(fused.load_segment_ids(image), image, fused.categories)
        is_labelled = gt != VOID_CLASS_INDEX
        pixels += np.bincount(doubt[is_labelled], minlength=LEVELS)
        wrong += np.bincount(doubt[is_labelled & (found != gt)], minlength=LEVELS)
    return pixels, wrong


def most_doubtful(part: float, pixels: np.ndarray, wrong: np.ndarray) -> float:
    """How many wrong pixels this part of all holds; of equally doubtful ones it has a share."""
    return float(np.interp(part * pixels.sum(), np.cumsum([0, *pixels[::-1]]), np.cumsum([0, *wrong[::-1]])))


if __name__ == "__main__":
    main()
