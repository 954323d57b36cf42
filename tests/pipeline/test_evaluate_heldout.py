"""Whose instances each category takes, by the AP of held-out images."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE
from tests.evaluation.test_average_precision import coco_ap
from tests.pipeline.workspace import ENDS, rewrite_instances, succeed


def read_routing(folder):
    """(Category, end) → its row of AP, and category → its route."""
    rows = pq.read_table(folder / "class_ap.parquet").to_pylist()
    routes = json.loads((folder / "routing.json").read_text())["categories"]
    return {(row["category_id"], row["end"]): row for row in rows}, {route["category_id"]: route for route in routes}


def heldout_instances(predictions, end):
    return predictions / end / "heldout" / INSTANCES_FILE


def test_every_thing_category_is_routed_by_its_ap_and_says_by_how_much(done):
    ap, routes = read_routing(done.routing)
    dataset = open_split(done.prepared, "heldout")
    things = {category.category_id for category in dataset.categories.things}
    assert list(next(iter(ap.values()))) == ["category_id", "end", "AP", "AP50", "n_gt"]
    assert ap.keys() == {(category_id, end) for category_id in things for end in ENDS}
    assert routes.keys() == things
    assert "better_ap" in {route["reason"] for route in routes.values()}
    segments = [s for image in dataset.images for s in image.segments if not s.is_crowd]
    for (category_id, _), row in ap.items():
        assert row["n_gt"] == sum(segment.category_id == category_id for segment in segments)
    for category_id, route in routes.items():
        of_end = {end: ap[category_id, end]["AP"] for end in ENDS}
        if route["reason"] == "better_ap":
            assert of_end[route["end"]] == max(of_end.values())
        lead = route["lead"]
        assert {route["end"], lead["over"]} == set(ENDS)
        if lead["AP"] is not None:
            assert lead["AP"] == pytest.approx(of_end[route["end"]] - of_end[lead["over"]])
            assert lead["low"] <= lead["high"]


def test_a_category_that_an_end_never_found_is_routed_to_the_other_and_says_by_how_much(done, tmp_path):
    routes = read_routing(done.routing)[1].items()
    category_id, end = next((c, row["end"]) for c, row in routes if row["reason"] == "better_ap")
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")

    def leave_out(image):
        kept = np.flatnonzero(image.category_ids != category_id)
        return kept, image.scores[kept]

    rewrite_instances(heldout_instances(predictions, end), leave_out)
    succeed(done.run("evaluate_heldout", predictions=predictions, out=tmp_path / "routing"))
    (other,) = set(ENDS) - {end}
    ap, routes = read_routing(tmp_path / "routing")
    changed = routes[category_id]
    assert (changed["end"], changed["reason"], changed["lead"]["over"]) == (other, "better_ap", end)
    assert ap[category_id, end]["AP"] == 0
    assert ap[category_id, end]["n_gt"] == ap[category_id, other]["n_gt"] > 0
    assert changed["lead"]["AP"] == pytest.approx(ap[category_id, other]["AP"])


def test_between_two_equal_ends_there_is_no_lead(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    one, other = (heldout_instances(predictions, end) for end in ENDS)
    shutil.copy(one, other)
    rewrite_instances(other, lambda image: (np.arange(len(image)), image.scores), end="lwl_htc")
    succeed(done.run("evaluate_heldout", predictions=predictions, out=tmp_path / "routing"))
    leads = [route["lead"] for route in read_routing(tmp_path / "routing")[1].values()]
    measured = [[lead[name] for name in ("AP", "low", "high")] for lead in leads if lead["AP"] is not None]
    assert measured == [[0, 0, 0]] * len(measured) != []


def test_ap_is_pycocotools_against_visible_instances_or_annotated_ones_where_there_are_some(done, tmp_path):
    dataset = open_split(done.prepared, "heldout")
    visible, annotated = {}, {}
    for image in dataset.images:
        ids = dataset.load_segment_ids(image)
        things = [segment for segment in image.segments if segment.category_id in dataset.categories.thing_ids]
        masks = np.array([ids == thing.segment_id for thing in things]).reshape(-1, *ids.shape)
        categories = np.array([thing.category_id for thing in things], np.int32)
        crowds = np.array([thing.is_crowd for thing in things], bool)
        visible[image.image_id] = GtInstances(categories, encode_masks(masks), crowds)
        with_hidden = encode_masks(masks | np.roll(masks, -3, axis=2))
        annotated[image.image_id] = GtInstances(categories, with_hidden, np.arange(len(things)) % 5 == 4)
    prepared = shutil.copytree(done.prepared, tmp_path / "prepared")
    write_gt_instances(prepared / "heldout_instances.parquet", iter(annotated.items()))
    manifest = json.loads((prepared / "dataset.json").read_text())
    manifest["splits"]["heldout"]["instances"] = "heldout_instances.parquet"
    (prepared / "dataset.json").write_text(json.dumps(manifest))
    succeed(done.run("evaluate_heldout", prepared=prepared, out=tmp_path / "routing"))

    for routing, gt in ((done.routing, visible), (tmp_path / "routing", annotated)):
        for end in ENDS:
            with InstancesReader(heldout_instances(done.predictions, end)) as reader:
                images = [(found, gt[found.image_id]) for found in reader]
            expected = coco_ap(images, dataset.categories.thing_ids)
            found = {c: (row["AP"], row["AP50"]) for (c, of), row in read_routing(routing)[0].items() if of == end}
            assert found.keys() == expected.keys()
            for category_id, ap in found.items():
                assert ap == pytest.approx(expected[category_id], nan_ok=True)
