"""Which end's instances are taken for a category: the one that segments it better on held-out images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field, model_validator

from antvisionps.core.documents import Document, Fraction, read_document
from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet

ROUTING_FILE, CLASS_AP_FILE = "routing.json", "class_ap.parquet"

CLASS_AP_SCHEMA = pa.schema(
    [
        ("category_id", pa.int32()),
        ("end", pa.string()),
        ("AP", pa.float64()),
        ("AP50", pa.float64()),
        ("n_gt", pa.int64()),
    ]
)
"""The mask AP of each end in each category on held-out images, which the routes follow; NaN where nobody knows."""

REMEDY = "run `dvc repro evaluate_heldout`"


class RoutingReason(StrEnum):
    """Why an end has a category. After TIE and TOO_FEW_INSTANCES it is the end that is better overall."""

    BETTER_AP = "better_ap"
    TIE = "tie"
    TOO_FEW_INSTANCES = "too_few_instances"
    ONLY_END = "only_end"


@dataclass(frozen=True, slots=True)
class Route:
    end: str
    reason: RoutingReason


def mean_ap(ap_of_category: Mapping[int, float]) -> float:
    """Mean over the categories that have an AP, i.e. ground truth; NaN if none has."""
    known = [ap for ap in ap_of_category.values() if not math.isnan(ap)]
    return math.fsum(known) / len(known) if known else math.nan


def route_categories(
    ap: Mapping[str, Mapping[int, float]], *, n_gt: Mapping[int, int], min_heldout_instances: int
) -> dict[int, Route]:
    """A route for each category of `n_gt` (category_id → held-out instances).

    `ap` holds end → category_id → mask AP, NaN for a category without ground truth, which counts as too few instances.
    Ends come in order of preference: the first of those that are equally good overall is the better one. Raises
    ValueError without an end, unless there is no category either.
    """
    routes: dict[int, Route] = {}
    if not n_gt:
        return routes
    overall = best_overall(ap)
    if overall is None:
        raise ValueError("expected the AP of at least one end")
    for category_id, instances in n_gt.items():
        if len(ap) == 1:
            routes[category_id] = Route(overall, RoutingReason.ONLY_END)
        elif instances < max(min_heldout_instances, 1):
            routes[category_id] = Route(overall, RoutingReason.TOO_FEW_INSTANCES)
        else:
            routes[category_id] = _route_by_ap({end: ap[end][category_id] for end in ap}, overall)
    return routes


def best_overall(ap: Mapping[str, Mapping[int, float]]) -> str | None:
    """The end of the highest mean AP, the first one on a tie or if no AP is known; None without an end."""
    means = {end: mean_ap(of_category) for end, of_category in ap.items()}
    return max(means, key=lambda end: -math.inf if math.isnan(means[end]) else means[end], default=None)


def _route_by_ap(ap_of_end: Mapping[str, float], overall: str) -> Route:
    best = max(ap_of_end.values())
    winners = [end for end, value in ap_of_end.items() if value == best]
    if len(winners) == 1:
        return Route(winners[0], RoutingReason.BETTER_AP)
    return Route(overall if overall in winners else winners[0], RoutingReason.TIE)


def runner_up(end: str, ap_of_end: Mapping[str, float]) -> str | None:
    """The best of the other ends, the first of equal ones; None without one."""
    others = [other for other in ap_of_end if other != end]
    return max(others, key=lambda other: -math.inf if math.isnan(ap_of_end[other]) else ap_of_end[other], default=None)


_Difference = Annotated[float, Field(ge=-1, le=1)]


class Lead(Document):
    """By how much AP an end leads the best of the others, and the 95 % interval of that; None where nobody knows."""

    over: str
    AP: _Difference | None
    low: _Difference | None
    high: _Difference | None

    @classmethod
    def of(cls, over: str, *numbers: float) -> Lead:
        """NaN is what nobody knows."""
        ap, low, high = (None if math.isnan(number) else number for number in numbers)
        return cls(over=over, AP=ap, low=low, high=high)

    @model_validator(mode="after")
    def _interval_is_one(self) -> Lead:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}")
        return self


def routes_to_json(
    routes: Mapping[int, Route],
    *,
    ap: Mapping[str, Mapping[int, float]],
    categories: CategorySet,
    leads: Mapping[int, Lead],
) -> dict[str, Any]:
    """The routing table as it stands in routing.json; an unknown number or lead is null."""
    means = {end: mean_ap(of_category) for end, of_category in ap.items()}
    return {
        "mean_ap": {end: None if math.isnan(mean) else mean for end, mean in means.items()},
        "better_overall": best_overall(ap),
        "categories": [
            {
                "category_id": category_id,
                "name": categories.by_id(category_id).name,
                "end": route.end,
                "reason": str(route.reason),
                "lead": leads[category_id].model_dump() if category_id in leads else None,
            }
            for category_id, route in sorted(routes.items())
        ],
    }


class RouteRow(Document):
    category_id: int
    name: str
    end: str
    reason: RoutingReason
    lead: Lead | None


class RoutingTable(Document):
    """What `routes_to_json` gives."""

    mean_ap: dict[str, Fraction | None]
    better_overall: str | None
    categories: tuple[RouteRow, ...]

    @property
    def end_of_category(self) -> dict[int, str]:
        return {row.category_id: row.end for row in self.categories}


def read_routing(folder: Path, *, categories: CategorySet, ends: Sequence[str]) -> RoutingTable:
    """The routing table in that folder. Raises CacheError unless every thing goes to one of `ends`, and nothing else
    does."""
    path = folder / ROUTING_FILE
    table = read_document(path, RoutingTable, what="routing table", remedy=REMEDY)
    if problem := _misfit(table, categories, ends):
        raise CacheError(f"{path}: {problem}; {REMEDY}")
    return table


def _misfit(table: RoutingTable, categories: CategorySet, ends: Sequence[str]) -> str:
    """What does not fit to the categories and ends, or within the table; empty where all does."""
    listed = [row.category_id for row in table.categories]
    for thing in categories.things:
        if listed.count(thing.category_id) != 1:
            count = "no route" if thing.category_id not in listed else "several routes"
            return f"{count} for category {thing.category_id} ({thing.name})"
    for row in table.categories:
        where = f"category {row.category_id} ({row.name})"
        if row.category_id not in categories.thing_ids:
            return f"{where} is no thing of this data set"
        if row.end not in ends or row.end not in table.mean_ap:
            return f"{where} goes to {row.end}; expected one of {list(ends)} with an AP"
        if row.lead is not None and row.lead.over not in ends:
            return f"{where} leads {row.lead.over}; expected one of {list(ends)}"
    if strangers := sorted(set(table.mean_ap) - set(ends)):
        return f"mean_ap names {strangers[0]}; expected only {list(ends)}"
    best = max(table.mean_ap, key=lambda end: -math.inf if (ap := table.mean_ap[end]) is None else ap, default=None)
    if table.better_overall != best:
        return f"better_overall is {table.better_overall}, but mean_ap is highest for {best}"
    return ""
