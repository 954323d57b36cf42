"""What the ends say of single pixels of the held-out images, and with what masks they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from antvisionps.fusion.semantic_average import SemanticAverage, average_semantics
from antvisionps.fusion.semantic_weights import fit_semantic_weights
from antvisionps.fusion.temperature import temper
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.semantic import ImageSemantics
from antvisionps.predictions.split_caches import SplitCaches

PIXELS = 2500
"""Of an image, about, on a regular grid."""


@dataclass(frozen=True, eq=False)
class HeldoutPixels:
    """true_probs: end with semantics → (N,) float32 probabilities of the truth at N pixels of all held-out images ·
    without_mask_probs: the ends of which some instances have none."""

    true_probs: Mapping[str, np.ndarray]
    without_mask_probs: frozenset[str]

    @classmethod
    def join(cls, images: Sequence[HeldoutPixels]) -> HeldoutPixels:
        ends = images[0].true_probs
        probs = {end: np.concatenate([image.true_probs[end] for image in images]) for end in ends}
        return cls(probs, frozenset[str]().union(*(image.without_mask_probs for image in images)))

    def weights(self, ends: Sequence[str]) -> dict[str, float]:
        """How much the semantics of each of these ends count among them; 1 of an end that has none."""
        present = [end for end in ends if end in self.true_probs]
        fitted = fit_semantic_weights(np.stack([self.true_probs[end] for end in present], axis=1))
        return dict.fromkeys(ends, 1.0) | dict(zip(present, fitted.tolist(), strict=True))


def open_pixels(
    caches: SplitCaches, ends: Sequence[str], temperature_of_end: Mapping[str, float]
) -> Callable[[int], HeldoutPixels]:
    """Reads the image at a position."""
    instances = caches.open_instances(ends, mask_probs=True)
    semantics = caches.open_semantics(ends)
    dataset = caches.dataset

    def read(position: int) -> HeldoutPixels:
        image = dataset.images[position]
        segment_ids = dataset.load_segment_ids(image)
        probs = {
            end: _true_probs(
                temper(reader.read(image.image_id), temperature_of_end.get(end, 1.0)),
                segment_ids,
                image,
                dataset.categories,
            )
            for end, reader in semantics.items()
        }
        found = {end: reader.read(image.image_id) for end, reader in instances.items()}
        bare = frozenset(end for end, of_end in found.items() if len(of_end) and of_end.mask_probs is None)
        return HeldoutPixels(probs, bare)

    return read


def _true_probs(
    planes: ImageSemantics, segment_ids: np.ndarray, image: PanopticImage, categories: CategorySet
) -> np.ndarray:
    """(N,) float32 at the pixels that are not void, of each segment in turn."""
    average: SemanticAverage = average_semantics(
        [planes], weights=[1.0], categories=categories, average_of="probabilities"
    )
    step = max(1, round((segment_ids.size / PIXELS) ** 0.5))
    every = slice(step // 2, None, step)
    sampled = segment_ids[every, every]
    found = [np.zeros(0, dtype=np.float32)]
    for segment in image.segments:
        probs = average.probabilities(categories.class_index(segment.category_id), every, every)
        found.append(probs[sampled == segment.segment_id])
    return np.concatenate(found)
