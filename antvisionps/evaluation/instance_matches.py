"""The matches of the ends' cached instances with the true ones, which AP and calibration are counted of."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from antvisionps.evaluation.average_precision import ImageMatches, match_image
from antvisionps.panoptic.gt_instances import GtInstances, open_annotated, visible_instances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.split_caches import SplitCaches

Matches = dict[str, ImageMatches]
"""End → its matches in an image."""


def match_instances(caches: SplitCaches, ends: Sequence[str], *, workers: Workers) -> dict[str, list[ImageMatches]]:
    """End → its matches with the truth in each image; of the ends that have instances."""
    matches: dict[str, list[ImageMatches]] = {}
    open_work = partial(_open_loading, caches, ends)
    for of_image in map_images(open_work, caches.dataset.images, workers=workers, description="match heldout"):
        for end, of_end in of_image.items():
            matches.setdefault(end, []).append(of_end)
    return matches


def _open_loading(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage], Matches]:
    match, dataset = open_matching(caches, ends), caches.dataset
    return lambda image: match(image, None if dataset.instances else dataset.load_segment_ids(image))


def open_matching(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage, np.ndarray | None], Matches]:
    """What matches an image, given its (height, width) true segment ids unless its true instances are in a file."""
    dataset = caches.dataset
    readers = caches.open_instances(ends)
    annotated = open_annotated(dataset)

    def true_instances(image: PanopticImage, segment_ids: np.ndarray | None) -> GtInstances:
        if annotated is not None:
            return annotated.read(image.image_id)
        assert segment_ids is not None, "without a file of instances the map has them"
        return visible_instances(segment_ids, image, dataset.categories)

    def match(image: PanopticImage, segment_ids: np.ndarray | None) -> Matches:
        gt = true_instances(image, segment_ids)
        return {end: match_image(reader.read(image.image_id), gt) for end, reader in readers.items()}

    return match
