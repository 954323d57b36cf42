import json
import math

import pytest

from antvisionps.core.errors import CacheError
from antvisionps.fusion.routing import (
    Lead,
    Route,
    RoutingReason,
    best_overall,
    mean_ap,
    read_routing,
    route_categories,
    routes_to_json,
    runner_up,
)
from tests.drawing import category_set

NAN = math.nan
CATEGORIES = category_set({1: "cat", 2: "dog"}, {3: "sky"})


def route(ap, n_gt, least=5):
    return route_categories(ap, n_gt=n_gt, min_heldout_instances=least)


@pytest.mark.parametrize(
    ("ap", "expected"),
    [
        ({"ups": {1: 0.4, 2: 0.1}, "htc": {1: 0.3, 2: 0.2}}, Route("ups", RoutingReason.BETTER_AP)),
        ({"ups": {1: 0.0, 2: 0.9}, "htc": {1: 0.01, 2: 0.1}}, Route("htc", RoutingReason.BETTER_AP)),
        # A tie goes to the end that is better overall, but to none that lost it; else to the first.
        ({"ups": {1: 0.4, 2: 0.1}, "htc": {1: 0.4, 2: 0.2}}, Route("htc", RoutingReason.TIE)),
        ({"ups": {1: 0.0, 2: 0.1}, "htc": {1: 0.0, 2: 0.9}}, Route("htc", RoutingReason.TIE)),
        ({"a": {1: 0.4, 2: 0.0}, "b": {1: 0.4, 2: 0.1}, "c": {1: 0.0, 2: 0.9}}, Route("a", RoutingReason.TIE)),
        ({"b": {1: 0.5, 2: 0.1}, "a": {1: 0.5, 2: 0.1}}, Route("b", RoutingReason.TIE)),
        ({"ups": {1: NAN, 2: NAN}}, Route("ups", RoutingReason.ONLY_END)),
    ],
)
def test_a_category_goes_to_the_end_of_the_better_ap(ap, expected):
    assert route(ap, {1: 9, 2: 9})[1] == expected


@pytest.mark.parametrize(
    ("ap_of_1", "n_gt", "least", "expected"),
    [
        ((0.4, 0.3), 5, 5, Route("ups", RoutingReason.BETTER_AP)),
        ((0.4, 0.3), 4, 5, Route("htc", RoutingReason.TOO_FEW_INSTANCES)),
        ((NAN, NAN), 0, 0, Route("htc", RoutingReason.TOO_FEW_INSTANCES)),
    ],
)
def test_too_few_instances_leave_a_category_to_the_end_that_is_better_overall(ap_of_1, n_gt, least, expected):
    ap = {"ups": {1: ap_of_1[0], 2: 0.1}, "htc": {1: ap_of_1[1], 2: 0.5}}
    assert route(ap, {1: n_gt, 2: 9}, least)[1] == expected


def test_the_first_end_is_better_when_nothing_tells_them_apart():
    assert best_overall({"b": {1: 0.5}, "a": {1: 0.5}}) == "b"
    assert best_overall({"b": {1: NAN}, "a": {1: NAN}}) == "b"
    assert best_overall({"b": {1: NAN}, "a": {1: 0.0}}) == "a"


def test_categories_without_ap_leave_the_mean():
    assert mean_ap({1: 0.25, 2: NAN, 3: 0.75}) == 0.5
    assert math.isnan(mean_ap({1: NAN}))


def test_without_ends_only_no_category_can_be_routed():
    assert route({}, {}) == {}
    with pytest.raises(ValueError, match="at least one end"):
        route({}, {1: 4})


def test_the_runner_up_is_the_best_of_the_others():
    assert runner_up("a", {"a": 0.9, "b": 0.2, "c": 0.3}) == "c"
    assert runner_up("a", {"a": 0.9, "b": NAN, "c": 0.0}) == "c"
    assert runner_up("a", {"a": 0.9}) is None


def write_and_read(folder, document, ends):
    (folder / "routing.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return read_routing(folder, categories=CATEGORIES, ends=ends)


def test_routes_survive_json(tmp_path):
    ap = {"ups": {1: 0.4, 2: NAN}, "htc": {1: 0.3, 2: NAN}, "hrnet": {1: NAN, 2: NAN}}
    routes = route(ap, {1: 9, 2: 0})
    table = routes_to_json(routes, ap=ap, categories=CATEGORIES, leads={1: Lead.of("htc", 0.1, -0.05, NAN)})
    document = json.loads(json.dumps(table, allow_nan=False))
    assert document["mean_ap"] == {"ups": 0.4, "htc": 0.3, "hrnet": None}
    assert document["better_overall"] == "ups"
    assert document["categories"][0]["lead"] == {"over": "htc", "AP": 0.1, "low": -0.05, "high": None}
    assert document["categories"][1]["lead"] is None
    read = write_and_read(tmp_path, document, [*ap])
    assert read.end_of_category == {category_id: route.end for category_id, route in routes.items()}
    assert (read.mean_ap, read.better_overall) == (document["mean_ap"], "ups")
    assert read.categories[0].lead.AP == 0.1


def rows(*ends, **more):
    described = {"name": "x", "reason": "tie", "lead": None} | more
    return [{"category_id": category_id, "end": end} | described for category_id, end in enumerate(ends, start=1)]


TABLE = {"mean_ap": {"ups": 0.4, "htc": 0.2}, "better_overall": "ups", "categories": rows("ups", "htc")}
LEAD = {"over": "htc", "AP": 0.1, "low": -0.1, "high": None}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not the routing table that is expected"),
        ({}, "mean_ap: Field required"),
        (None, "not the routing table"),
        (TABLE | {"mean_ap": "x"}, "mean_ap: .*got 'x'"),
        (TABLE | {"mean_ap": {"ups": "x", "htc": 0.2}}, "mean_ap.ups: .*number, got 'x'"),
        (TABLE | {"mean_ap": {"ups": 40.0, "htc": 0.2}}, "mean_ap.ups: .*less than or equal to 1, got 40.0"),
        (TABLE | {"mean_ap": {"ups": 0.4, "htc": NAN}}, "mean_ap.htc: .*got nan"),
        (TABLE | {"mean_ap": {"ups": 0.4, "htc": 0.2, "mine": 0.1}}, "mean_ap names mine"),
        (TABLE | {"better_overall": "htc"}, "better_overall is htc, but mean_ap is highest for ups"),
        (TABLE | {"better_overall": 3}, "better_overall: "),
        (TABLE | {"categories": rows("ups", "htc", reason="magic")}, "categories.0.reason: .*got 'magic'"),
        (TABLE | {"categories": rows("ups", "htc", lead=LEAD | {"AP": 3e38})}, "categories.0.lead.AP: "),
        (TABLE | {"categories": rows("ups", "htc", lead=LEAD | {"over": "mine"})}, r"category 1 \(x\) leads mine"),
        (TABLE | {"categories": rows("ups", "htc", lead=LEAD | {"high": -0.5})}, "lead: low is -0.1 and high is -0.5"),
        (TABLE | {"categories": rows("ups")}, r"no route for category 2 \(dog\)"),
        (TABLE | {"categories": rows("ups", "htc") + rows("ups")}, r"several routes for category 1 \(cat\)"),
        (TABLE | {"categories": rows("ups", "htc", "ups")}, r"category 3 \(x\) is no thing of this data set"),
        (
            TABLE | {"categories": rows("hrnet", "ups")},
            r"category 1 \(x\) goes to hrnet; expected one of \['ups', 'htc'\]",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, document, message):
    expected = rf"^{tmp_path}/routing\.json: [^\n]*{message}[^\n]*; run `dvc repro evaluate_heldout`$"
    with pytest.raises(CacheError, match=expected):
        write_and_read(tmp_path, document, ["ups", "htc"])
