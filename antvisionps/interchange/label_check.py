"""Whether labels mean the categories that they are read as: a few images against the truth.

A tool that numbers categories in its own way writes numbers that are category ids too, of other categories, and nothing
else tells. The check decides no parameter: it stops, warns, or says nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.predictions.instances import ImageInstances, InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader

SAMPLE_IMAGES, SAMPLE_INSTANCES = 16, 50
"""Images of a split, and the best instances of an image."""

CHANCE_KAPPA, BETTER_KAPPA = 0.05, 0.25
"""Cohen's kappa (1960), the agreement beyond that of chance: 0 for one class everywhere, 1 where all is right."""

VOID_LABEL = 0
"""Of pixels without a category: where nothing is predicted, or class 0 of a tool that counts from 0."""

Counts = Counter[tuple[int, int]]
"""(label, true category) → how much of it was found together."""


@dataclass(frozen=True)
class Reading:
    """What labels may mean, and how well that agrees: the share that is right, and kappa."""

    name: str
    category_of: Mapping[int, int]
    right_frac: float
    kappa: float


def check_labels(cache: Path, source: Path, *, dataset: PanopticDataset, is_told: bool) -> list[str]:
    """Warnings about the end that was just read from `source` into `cache`; `is_told` where a table tells its labels.

    Raises PredictionsError where labels agree with the truth far better if they are counted in another way. A table of
    labels is believed: then that is a warning.
    """
    truth = {image.image_id: image for image in _sample(dataset)}
    warnings = []
    for what, counts in _counts_of(cache, dataset, truth):
        as_read, best = _rank(counts, dataset.categories)
        said = f"{source}: {_agreement(as_read, what, len(truth))}"
        if best.kappa >= as_read.kappa + BETTER_KAPPA:
            said += f", and {best.right_frac:.1%} if they are {best.name}; {_remedy(best, dataset.categories)}"
            if not is_told:
                raise PredictionsError(said)
            warnings.append(said)
        elif as_read.kappa < CHANCE_KAPPA:
            warnings.append(f"{said}, no more than by chance; if it should, check the numbers of its categories")
    return warnings


def _sample(dataset: PanopticDataset) -> list[PanopticImage]:
    positions = np.linspace(0, len(dataset.images) - 1, min(SAMPLE_IMAGES, len(dataset.images)))
    return [dataset.images[position] for position in positions.astype(int).tolist()]


def _counts_of(
    cache: Path, dataset: PanopticDataset, images: Mapping[int, PanopticImage]
) -> Iterator[tuple[str, Counts]]:
    """What is counted, and the counts over the images, of each kind of predictions in which anything can be told."""
    maps = {
        image_id: class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
        for image_id, image in images.items()
    }
    pixels, instances = Counts(), Counts()
    if (cache / SEMANTIC_FILE).exists():
        with SemanticReader(cache / SEMANTIC_FILE) as semantics:
            for image_id, class_map in maps.items():
                pixels.update(_count_pixels(semantics.read(image_id), class_map, dataset.categories))
    if (cache / INSTANCES_FILE).exists():
        with InstancesReader(cache / INSTANCES_FILE, mask_probs=False) as found:
            for image_id, class_map in maps.items():
                instances.update(_count_instances(found.read(image_id), class_map, dataset.categories))
    yield from ((what, counts) for what, counts in (("pixels", pixels), ("instances", instances)) if counts)


def _count_pixels(semantics: ImageSemantics, class_map: np.ndarray, categories: CategorySet) -> Counts:
    """By the likeliest category at the middle of each cell of the grid."""
    rows, columns = (
        np.minimum((np.arange(cells) + 0.5) * semantics.stride * side_px / input_px, side_px - 1).astype(int)
        for cells, side_px, input_px in zip(
            semantics.planes.shape[1:], class_map.shape, (semantics.input_height, semantics.input_width), strict=True
        )
    )
    labels = semantics.category_ids[semantics.planes.argmax(axis=0)]
    labels[~semantics.planes.any(axis=0)] = VOID_LABEL
    return _count(labels, class_map[np.ix_(rows, columns)], categories)


def _count_instances(found: ImageInstances, class_map: np.ndarray, categories: CategorySet) -> Counts:
    """By the thing that most of an instance's pixels are of."""
    counts = Counts()
    runs = found.parse(range(min(len(found), SAMPLE_INSTANCES)))
    for index in range(len(runs)):
        left, top, crop = runs.crop(index)
        classes = class_map.T[left : left + crop.shape[0], top : top + crop.shape[1]][crop]
        pixels = np.bincount(classes, minlength=1)
        likeliest = int(pixels.argmax())
        if likeliest < len(categories.things) and 2 * pixels[likeliest] > len(classes):
            counts[int(found.category_ids[index]), categories.categories[likeliest].category_id] += 1
    return counts


def _count(labels: np.ndarray, classes: np.ndarray, categories: CategorySet) -> Counts:
    is_known = classes != VOID_CLASS_INDEX
    pairs, times = np.unique(
        np.stack([labels[is_known], categories.category_ids[classes[is_known]]]), axis=1, return_counts=True
    )
    return Counts(dict(zip(map(tuple, pairs.T.tolist()), times.tolist(), strict=True)))


def _rank(counts: Counts, categories: CategorySet) -> tuple[Reading, Reading]:
    """The labels as category ids, and as the numbering that agrees best."""
    ascending = sorted(categories.category_ids.tolist())
    orders = {
        "the categories by id": ascending,
        "things, then stuff": categories.category_ids.tolist(),
        "things": [category.category_id for category in categories.things],
        "stuff": [category.category_id for category in categories.stuff],
    }
    others = [
        _measure(counts, f"counted from {first} over {name}", dict(enumerate(order, start=first)))
        for name, order in orders.items()
        for first in (0, 1)
    ]
    as_read = _measure(counts, "category ids", dict(zip(ascending, ascending, strict=True)))
    return as_read, max(others, key=lambda reading: reading.kappa)


def _measure(counts: Counts, name: str, category_of: Mapping[int, int]) -> Reading:
    total = counts.total()
    found, true = Counter[int | None](), Counter[int]()
    right = 0
    for (label, category_id), times in counts.items():
        found[category_of.get(label)] += times
        true[category_id] += times
        right += times * (category_of.get(label) == category_id)
    by_chance = sum(found[category_id] * times for category_id, times in true.items()) / total**2
    right_frac = right / total
    return Reading(name, category_of, right_frac, (right_frac - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0)


def _agreement(reading: Reading, what: str, images: int) -> str:
    return f"its labels agree with the truth in {reading.right_frac:.1%} of the {what} of {images} images"


def _remedy(reading: Reading, categories: CategorySet) -> str:
    first, *_ = reading.category_of.items()
    example = f'{{"{first[0]}": "{categories.by_id(first[1]).name}", …}}'
    return f"say which is which in labels.json beside them, as {example}"
