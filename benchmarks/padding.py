"""Pixels that a training computes over the pixels of its photos, on COCO's mix of sizes.

    python -m benchmarks.padding

A process pads its images of a batch to the largest of them, and to multiples of 32. Sizes are drawn from those of 79
photos of COCO's val2017; the params of E-UPS's training give the short sides. Beside the batches of a training stand
photos as they are shuffled, each with a short side of its own. The exit status says whether padding adds at most 15 %.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from antvisionps.models.blocks.resizing import resized_hw
from antvisionps.models.training.samples import SampleOrder, draw_short_side_px
from antvisionps.params.training import Augmentation
from antvisionps.params.whole import load_params

PHOTOS_OF_HW = {
    # The val split of https://github.com/Obmutescence/COCO-MINI, annotations/instances_val2017.json.
    (480, 640): 21, (427, 640): 10, (640, 480): 4, (500, 375): 4, (426, 640): 3, (640, 478): 3, (375, 500): 3,
    (428, 640): 2, (500, 333): 1, (612, 612): 1, (358, 640): 1, (640, 457): 1, (333, 500): 1, (423, 640): 1,
    (457, 640): 1, (640, 424): 1, (640, 428): 1, (640, 474): 1, (640, 470): 1, (334, 500): 1, (640, 427): 1,
    (304, 640): 1, (464, 640): 1, (424, 640): 1, (559, 640): 1, (414, 640): 1, (640, 383): 1, (406, 640): 1,
    (313, 640): 1, (408, 640): 1, (374, 500): 1, (640, 358): 1, (461, 640): 1, (400, 500): 1, (484, 640): 1,
    (640, 426): 1, (476, 640): 1,
}  # fmt: skip
BATCHES = {"8 processes x 2": (8, 2), "1 process x 4": (1, 4)}
MAX_RATIO = 1.15
DIVISOR = 32
"""What the networks' input is padded to a multiple of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--params", type=Path, default=Path("profiles/coco_paper.yaml"))
    arguments = parser.parse_args()
    augmentation = load_params(arguments.params).train_e_ups.augmentation
    rng = np.random.default_rng(0)
    hws = rng.choice([hw for hw, photos in PHOTOS_OF_HW.items() for _ in range(photos)], size=arguments.photos)
    print(f"short sides {augmentation.short_sides_px}\n\n| batch | as shuffled | as trained |\n|---|---:|---:|")
    ratios = []
    for name, (processes, images) in BATCHES.items():
        shuffled = ratio(shuffled_sizes(hws, augmentation, rng), images)
        ratios.append(ratio(trained_sizes(hws, augmentation, processes, images), images))
        print(f"| {name} | {shuffled:.3f} | {ratios[-1]:.3f} |")
    sys.exit(max(ratios) > MAX_RATIO)


def trained_sizes(hws: np.ndarray, augmentation: Augmentation, processes: int, images: int) -> np.ndarray:
    """(n, 2) sizes in the order of an epoch's samples, share after share."""
    batch_size = processes * images
    order = SampleOrder(hws[:, 0] / hws[:, 1], seed=0, batch_size=batch_size)
    sizes: Iterator[tuple[int, int]] = (
        resized_hw(
            tuple(hws[image]),
            short_side_px=draw_short_side_px(augmentation.short_sides_px, seed=0, batch=number // batch_size),
            max_long_side_px=augmentation.max_long_side_px,
        )
        for number, image in order
    )
    return np.array(list(itertools.islice(sizes, len(hws) // batch_size * batch_size)))


def shuffled_sizes(hws: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    short_sides = rng.choice(augmentation.short_sides_px, size=len(hws))
    longest = augmentation.max_long_side_px
    sizes = zip(hws.tolist(), short_sides.tolist(), strict=True)
    return np.array([resized_hw(tuple(hw), short_side_px=side, max_long_side_px=longest) for hw, side in sizes])


def ratio(sizes: np.ndarray, images: int) -> float:
    """Of padded to own pixels where `images` that follow each other are padded together."""
    shares = sizes[: len(sizes) // images * images].reshape(-1, images, 2)
    padded = -(-shares.max(axis=1) // DIVISOR) * DIVISOR
    return float(images * padded.prod(axis=1).sum() / shares.prod(axis=2).sum())


if __name__ == "__main__":
    main()
