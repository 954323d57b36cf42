"""PQ, SQ and RQ in percent: of all categories, of things and of stuff."""

import math
from collections.abc import Iterable, Iterator

from antvisionps.evaluation.panoptic_quality import MatchCounts, Quality, class_quality, group_quality
from antvisionps.panoptic.categories import CategorySet

MEASURES = ("PQ", "SQ", "RQ")


def groups(categories: CategorySet) -> dict[str, list[int]]:
    """All, Things, Stuff → category ids in ascending order, in which panopticapi too adds up those of most JSONs."""
    of_group = {"All": categories.categories, "Things": categories.things, "Stuff": categories.stuff}
    return {group: sorted(category.category_id for category in listed) for group, listed in of_group.items()}


def percentages(quality: Quality) -> dict[str, float | None]:
    """PQ, SQ, RQ times 100; None where there is no category to measure."""
    return dict(zip(MEASURES, in_percent((quality.pq, quality.sq, quality.rq)), strict=True))


def in_percent(values: Iterable[float]) -> Iterator[float | None]:
    """The values times 100; None, an empty cell of a table, where there is nothing to measure."""
    for value in values:
        yield None if math.isnan(value) else 100 * value


def summarize(counts: MatchCounts, categories: CategorySet) -> dict[str, dict[str, float | None]]:
    """Group → PQ, SQ, RQ in percent; None where the group has no category to measure."""
    of_class = class_quality(counts)
    return {group: percentages(group_quality(of_class, ids)) for group, ids in groups(categories).items()}
