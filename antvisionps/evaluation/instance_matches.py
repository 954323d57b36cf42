"""The matches of the ends' cached instances with the true ones, which AP and calibration are counted of."""

from collections.abc import Callable, Sequence
from functools import partial

from antvisionps.evaluation.average_precision import ImageMatches, match_image
from antvisionps.panoptic.gt_instances import open_annotated, visible_instances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.split_caches import SplitCaches

Matches = dict[str, ImageMatches]
"""End → its matches in an image."""


def match_instances(caches: SplitCaches, ends: Sequence[str], *, workers: Workers) -> dict[str, list[ImageMatches]]:
    """End → its matches with the truth in each image; of the ends that have instances."""
    matches: dict[str, list[ImageMatches]] = {}
    open_work = partial(_open_matching, caches, ends)
    for of_image in map_images(open_work, caches.dataset.images, workers=workers, description="match heldout"):
        for end, of_end in of_image.items():
            matches.setdefault(end, []).append(of_end)
    return matches


def _open_matching(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage], Matches]:
    dataset = caches.dataset
    readers, annotated = caches.open_instances(ends), open_annotated(dataset)

    def match(image: PanopticImage) -> Matches:
        if annotated is None:
            gt = visible_instances(dataset.load_segment_ids(image), image, dataset.categories)
        else:
            gt = annotated.read(image.image_id)
        return {end: match_image(reader.read(image.image_id), gt) for end, reader in readers.items()}

    return match
