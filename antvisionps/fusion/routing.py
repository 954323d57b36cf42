"""Which end's instances are taken for a category: the one that segments it better on held-out images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet

ROUTING_FILE = "routing.json"


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


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much AP an end leads the best of the others, and the 95 % interval of that; NaN where nobody knows."""

    over: str
    ap: float
    low: float
    high: float


def runner_up(end: str, ap_of_end: Mapping[str, float]) -> str | None:
    """The best of the other ends, the first of equal ones; None without one."""
    others = [other for other in ap_of_end if other != end]
    return max(others, key=lambda other: -math.inf if math.isnan(ap_of_end[other]) else ap_of_end[other], default=None)


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
                "lead": _lead_to_json(leads.get(category_id)),
            }
            for category_id, route in sorted(routes.items())
        ],
    }


def _lead_to_json(lead: Lead | None) -> dict[str, Any] | None:
    if lead is None:
        return None
    numbers = {"AP": lead.ap, "low": lead.low, "high": lead.high}
    return {"over": lead.over} | {name: None if math.isnan(value) else value for name, value in numbers.items()}


def routes_from_json(document: Any, *, categories: CategorySet, ends: Sequence[str], where: str) -> dict[int, Route]:
    """The routes of routing.json. Raises CacheError unless every thing category goes to one of `ends`."""
    try:
        routes = {
            int(row["category_id"]): Route(str(row["end"]), RoutingReason(row["reason"]))
            for row in document["categories"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{where}: not a routing table ({error!r}); run `dvc repro evaluate_heldout`") from error
    for category in categories.things:
        route = routes.get(category.category_id)
        if route is None:
            raise CacheError(
                f"{where}: no route for category {category.category_id} ({category.name}); run `dvc repro "
                "evaluate_heldout`"
            )
        if route.end not in ends:
            raise CacheError(
                f"{where}: category {category.category_id} ({category.name}) goes to {route.end}; expected one of "
                f"{list(ends)}; run `dvc repro evaluate_heldout`"
            )
    return routes
