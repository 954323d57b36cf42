"""The matches of the ends' cached instances with the true ones, which AP and calibration are counted of."""

from collections.abc import Callable, Sequence
from functools import partial

from antvisionps.evaluation.average_precision import ImageMatches, match_image
from antvisionps.panoptic.gt_instances import GtInstances, GtInstancesReader, visible_instances
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.split_caches import SplitCaches

Matches = dict[str, dict[int, ImageMatches]]
"""End → category_id → its matches in an image."""


def match_instances(
    caches: SplitCaches, ends: Sequence[str], *, workers: Workers, description: str
) -> dict[str, list[dict[int, ImageMatches]]]:
    """End → for each image category_id → its matches with the truth; of the ends that have instances."""
    matches: dict[str, list[dict[int, ImageMatches]]] = {}
    open_work = partial(open_matching, caches, ends)
    for of_image in map_images(open_work, caches.dataset.images, workers=workers, description=description):
        for end, of_end in of_image.items():
            matches.setdefault(end, []).append(of_end)
    return matches


def open_matching(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage], Matches]:
    dataset = caches.dataset
    readers = caches.open_instances(ends)
    annotated = None if dataset.instances is None else GtInstancesReader(dataset.instances, dataset.images)

    def visible(image: PanopticImage) -> GtInstances:
        return visible_instances(dataset.load_segment_ids(image), image, dataset.categories)

    def match(image: PanopticImage) -> Matches:
        gt = visible(image) if annotated is None else annotated.read(image.image_id)
        return {end: match_image(reader.read(image.image_id), gt) for end, reader in readers.items()}

    return match
