"""The part of stage `calibrate` that fits a temperature for each end's semantic probabilities."""

from collections.abc import Callable, Sequence
from functools import partial

from antvisionps.fusion.temperature import TemperatureLoss
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images
from antvisionps.predictions.split_caches import SplitCaches


def fit_temperatures(caches: SplitCaches, ends: Sequence[str], workers: Workers) -> dict[str, float]:
    """End → temperature, of those that have semantics; prints them."""
    open_work = partial(_open_measuring, caches, ends)
    images = list(map_images(open_work, caches.dataset.images, workers=workers, description="temperature"))
    found = {end: TemperatureLoss.total([one[end] for one in images]).best_temperature() for end in images[0]}
    print("temperature: " + ", ".join(f"{end} {temperature:.2f}" for end, temperature in found.items()))
    return found


def _open_measuring(caches: SplitCaches, ends: Sequence[str]) -> Callable[[PanopticImage], dict[str, TemperatureLoss]]:
    readers, dataset = caches.open_semantics(ends), caches.dataset

    def measure(image: PanopticImage) -> dict[str, TemperatureLoss]:
        gt_ids = dataset.load_segment_ids(image)
        return {
            end: TemperatureLoss.of(reader.read(image.image_id), gt_ids, image, dataset.categories)
            for end, reader in readers.items()
        }

    return measure
