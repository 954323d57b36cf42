"""The rows of the tables of a score: by category, by size, with intervals, by image. Measures are in percent."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from antvisionps.evaluation.bootstrap import ResampledCounts, percentile_interval
from antvisionps.evaluation.error_kinds import KINDS, ErrorCounts
from antvisionps.evaluation.lrp import SystemLrp, mean_lrp
from antvisionps.evaluation.panoptic_quality import (
    SIZES,
    MatchCounts,
    SegmentMatches,
    class_quality,
    group_quality,
    total_counts,
)
from antvisionps.evaluation.summary import MEASURES, groups, in_percent, percentages
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.ids import ImageId

COUNTS = ("tp", "fp", "fn")
CLASS_COLUMNS = ("category", "system", *MEASURES, *COUNTS)
SIZE_COLUMNS = ("system", "size", *MEASURES, *COUNTS)
INTERVAL_COLUMNS = ("group", "system", "minus", "PQ", "low", "high")
ERROR_COLUMNS = ("group", "system", "kind", "segments", "PQ_lost")
CLASS_ERROR_COLUMNS = ("category", *ERROR_COLUMNS[1:])
LRP_MEASURES = ("LRP", "localisation", "FP", "FN")
LRP_COLUMNS = ("group", "system", *LRP_MEASURES, *(f"optimal_{name}" for name in LRP_MEASURES))
CLASS_LRP_COLUMNS = ("category", *LRP_COLUMNS[1:], "min_score")
IMAGE_COLUMNS = ("system", "image_id", "category_id", *COUNTS, "iou_sum")


def class_rows(totals: Mapping[str, MatchCounts], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each system and category that has a true or a predicted segment; categories in class order."""
    qualities = {name: class_quality(total) for name, total in totals.items()}
    for category in categories.categories:
        for name, total in totals.items():
            quality = qualities[name].get(category.category_id)
            if quality is not None:
                row = int(np.searchsorted(total.category_ids, category.category_id))
                tp, fp, fn = (int(column[row]) for column in (total.tp, total.fp, total.fn))
                yield [category.name, name, *percentages(quality).values(), tp, fp, fn]


def size_rows(matches: Mapping[str, SegmentMatches], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each system and size of things; no PQ where no thing is of that size."""
    for name, of_system in matches.items():
        for size in SIZES:
            total = total_counts(of_system.of_size(size, categories.thing_ids).counts())
            quality = group_quality(class_quality(total), total.category_ids.tolist())
            sums = (int(column.sum()) for column in (total.tp, total.fp, total.fn))
            yield [name, size, *percentages(quality).values(), *sums]


def error_rows(errors: Mapping[str, ErrorCounts], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each group, system and kind; PQ_lost of a group's kinds add up to 100 - its PQ."""
    for group, category_ids in groups(categories).items():
        for name, of_system in errors.items():
            yield from ([group, name, *row] for row in _kind_rows(of_system, category_ids))


def class_error_rows(errors: Mapping[str, ErrorCounts], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each category, system and kind, of the categories with a true or a predicted segment."""
    for category in categories.categories:
        for name, of_system in errors.items():
            if category.category_id in of_system.category_ids:
                rows = _kind_rows(of_system, [category.category_id])
                yield from ([category.name, name, *row] for row in rows)


def _kind_rows(errors: ErrorCounts, category_ids: Collection[int]) -> Iterator[list[object]]:
    segments, pq_lost = errors.of_categories(category_ids)
    for kind, count, lost in zip(KINDS, segments.tolist(), pq_lost.tolist(), strict=True):
        yield [kind.value, count, *in_percent([lost])]


def lrp_rows(errors: Mapping[str, SystemLrp], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each group and system."""
    for group, category_ids in groups(categories).items():
        for name, of_system in errors.items():
            plain = mean_lrp([of_system.as_it_is[key] for key in category_ids if key in of_system.as_it_is])
            optima = [of_system.optima[key].error for key in category_ids if key in of_system.optima]
            yield [group, name, *in_percent(plain), *in_percent(mean_lrp(optima))]


def class_lrp_rows(errors: Mapping[str, SystemLrp], categories: CategorySet) -> Iterator[list[object]]:
    """A row for each category with a true or a predicted segment, and system."""
    for category in categories.categories:
        for name, of_system in errors.items():
            if category.category_id in of_system.as_it_is:
                optimum = of_system.optima[category.category_id]
                plain = of_system.as_it_is[category.category_id]
                min_score = None if math.isnan(optimum.min_score) else optimum.min_score
                yield [category.name, name, *in_percent(plain), *in_percent(optimum.error), min_score]


def interval_rows(
    counts: Mapping[str, Sequence[MatchCounts]], categories: CategorySet, draws: np.ndarray
) -> Iterator[list[object]]:
    """PQ of every system, and of every two the difference (`minus` is the second), with 95 % intervals over images.

    Both systems of a difference are scored on the same resampled images.
    """
    every_image_once = np.ones_like(draws[:1])
    once_and_draws = np.concatenate([every_image_once, draws])
    resampled = {name: ResampledCounts.of(images, once_and_draws) for name, images in counts.items()}
    for group, category_ids in groups(categories).items():
        pq_of = {name: of_system.pq(category_ids) for name, of_system in resampled.items()}
        for name in counts:
            yield [group, name, None, *_with_interval(pq_of[name])]
        for second, first in itertools.combinations(counts, 2):
            yield [group, first, second, *_with_interval(pq_of[first] - pq_of[second])]


def _with_interval(once_and_samples: np.ndarray) -> Iterator[object]:
    """The first value and the interval of the others, in percent; empty where there is nothing to measure."""
    yield from in_percent((float(once_and_samples[0]), *percentile_interval(once_and_samples[1:])))


def image_columns(
    counts: Mapping[str, Sequence[MatchCounts]], image_ids: Sequence[ImageId]
) -> Iterator[list[Sequence[Any]]]:
    """Of each system IMAGE_COLUMNS, an entry for each image and category that occurs in it: enough to compute the PQ of
    any subset of images again, or to bootstrap it."""
    for name, of_images in counts.items():
        lengths = [len(image.category_ids) for image in of_images]
        of_rows = np.repeat(np.array(image_ids), lengths).tolist()
        values = ("category_ids", *COUNTS, "iou_sum")
        columns = [np.concatenate([getattr(image, field) for image in of_images]) for field in values]
        yield [[name] * len(of_rows), of_rows, *columns]
