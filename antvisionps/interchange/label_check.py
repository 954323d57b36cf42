"""Whether labels mean the categories that they are read as: a few images against the truth.

A tool that numbers categories in its own way writes numbers that are category ids too, of other categories, and nothing
else tells. The check decides no parameter: it stops, warns, or says nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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

CHANCE_KAPPA, SOUND_KAPPA, BETTER_KAPPA = 0.05, 0.3, 0.15
"""Cohen's kappa (1960), the agreement beyond that of chance: 0 for one class everywhere, 1 where all is right. Labels
that are read right agree better than in every other reading, however poor the predictions are."""

POOR_FRAC = 0.5
"""Where less is right, by chance or not, there is reason to warn."""

Counts = Counter[tuple[int, int]]
"""(label, true category) → how much of it was found together."""


@dataclass(frozen=True)
class Reading:
    """What labels may mean, and how well that agrees: the share that is right, and kappa."""

    name: str
    category_of: Mapping[int, int]
    right_frac: float
    kappa: float


def check_labels(cache: Path, source: Path, *, dataset: PanopticDataset, is_told: bool, remedy: str) -> list[str]:
    """Warnings about the end that was just read from `source` into `cache`; `is_told` where a table tells its labels,
    `remedy` how else to tell them.

    Raises PredictionsError where labels agree with the truth far better if they are counted in another way. A table of
    labels is believed: then that is a warning.
    """
    images = _sample(dataset)
    warnings = []
    for what, counts in _count_all(cache, dataset, images).items():
        as_read, best = _rank(counts, dataset.categories)
        said = (
            f"{source}: labels agree with the truth in {as_read.right_frac:.1%} of the {what} of {len(images)} images"
        )
        if best.kappa >= max(SOUND_KAPPA, as_read.kappa + BETTER_KAPPA):
            said += f", and in {best.right_frac:.1%} if they are {best.name}"
            said += f"; {remedy}, as {_example(best, dataset.categories)}"
            if not is_told:
                raise PredictionsError(said)
            warnings.append(said)
        elif as_read.kappa < CHANCE_KAPPA and as_read.right_frac < POOR_FRAC:
            warnings.append(
                f"{said}, no more than by chance; if it should, check the numbers of its categories and images"
            )
    return warnings


def _sample(dataset: PanopticDataset) -> list[PanopticImage]:
    positions = np.linspace(0, len(dataset.images) - 1, min(SAMPLE_IMAGES, len(dataset.images)))
    return [dataset.images[position] for position in positions.astype(int).tolist()]


def _count_all(cache: Path, dataset: PanopticDataset, images: Sequence[PanopticImage]) -> dict[str, Counts]:
    """What is counted → the counts over the images, of each kind of predictions in which anything is found."""
    counts = {"pixels": Counts(), "instances": Counts()}
    with ExitStack() as files:
        semantics = instances = None
        if (cache / SEMANTIC_FILE).exists():
            semantics = files.enter_context(SemanticReader(cache / SEMANTIC_FILE))
        if (cache / INSTANCES_FILE).exists():
            instances = files.enter_context(InstancesReader(cache / INSTANCES_FILE, mask_probs=False))
        for image in images:
            class_map = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
            if semantics is not None:
                found = semantics.read(image.image_id)
                counts["pixels"].update(_count_pixels(found, class_map, dataset.categories))
            if instances is not None:
                counts["instances"].update(
                    _count_instances(instances.read(image.image_id), class_map, dataset.categories)
                )
    void = _void_label(dataset.categories)
    return {what: counted for what, counted in counts.items() if any(label != void for label, _ in counted)}


def _void_label(categories: CategorySet) -> int:
    """The label of pixels without a category: 0, unless 0 is the first class of a tool that counts from 0."""
    return -1 if 0 in categories else 0


def _count_pixels(semantics: ImageSemantics, class_map: np.ndarray, categories: CategorySet) -> Counts:
    """By the likeliest category at the middle of each cell of the grid."""
    rows, columns = semantics.pixels_of_cells()
    labels = semantics.category_ids[semantics.planes.argmax(axis=0)]
    labels[~semantics.planes.any(axis=0)] = _void_label(categories)
    return _count(labels[: len(rows), : len(columns)], class_map[np.ix_(rows, columns)], categories)


def _count_instances(found: ImageInstances, class_map: np.ndarray, categories: CategorySet) -> Counts:
    """By the thing that most of an instance's pixels are of."""
    counts = Counts()
    for index in range(min(len(found), SAMPLE_INSTANCES)):
        left, top, crop = found.runs.crop(index)
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
        "things": [category.category_id for category in categories.things],
        "stuff": [category.category_id for category in categories.stuff],
        "the categories by id": ascending,
        "things, then stuff": categories.category_ids.tolist(),
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
    # All of one class, found and true, tells nothing.
    kappa = (right_frac - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    return Reading(name, category_of, right_frac, kappa)


def _example(reading: Reading, categories: CategorySet) -> str:
    first, *_ = reading.category_of.items()
    return f'{{"{first[0]}": "{categories.by_id(first[1]).name}", …}}'
