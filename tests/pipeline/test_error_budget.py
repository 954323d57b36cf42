"""What score says that a perfect part would give, against stages fuse and score with that part made perfect by hand."""

import json
import shutil

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.schema import INSTANCES_FILE
from tests.pipeline.workspace import ENDS, UNION, read_csv, rewrite_instances, succeed, write_params


def read_budget(metrics):
    """Perfect part → column → number."""
    rows = read_csv(metrics / "error_budget.csv")
    return {row.pop("perfect"): {name: float(value) for name, value in row.items()} for row in rows}


def budget_of(done, out, places=(), **choices):
    """The rows by other choices; what is fused does not matter to them."""
    out.mkdir()
    params = write_params(out / "params.yaml", **choices)
    succeed(done.run("score", params=params, out=out / "metrics", scores=out / "scores", **dict(places)))
    return read_budget(out / "metrics")


def test_it_starts_where_the_fusion_is_and_truth_is_perfect(done):
    rows = read_budget(done.metrics)
    as_fused, perfect = rows["as fused"], rows["true semantics"]
    metrics = json.loads((done.metrics / "panoptic.json").read_text())["fusion"]
    assert list(as_fused.values()) == pytest.approx([metrics[group]["PQ"] for group in ("All", "Things", "Stuff")])
    assert rows["true instances"]["PQ_things"] == 100
    assert perfect["PQ_stuff"] > as_fused["PQ_stuff"]
    assert perfect["PQ_things"] == pytest.approx(as_fused["PQ_things"])


def test_perfect_routing_is_what_the_stages_give_by_the_end_that_does_better_on_val(done, tmp_path):
    table = json.loads((done.routing / "routing.json").read_text())
    (tmp_path / "routing").mkdir()

    def scored(name, end_of_category):
        for row in table["categories"]:
            row["end"] = end_of_category(row["name"])
        (tmp_path / "routing" / "routing.json").write_text(json.dumps(table))
        fused = done.fuse(tmp_path / name, "fusion", places={"routing": tmp_path / "routing"})
        summary = done.score(tmp_path / f"{name}_scored", fused)["fusion"]
        rows = read_csv(tmp_path / f"{name}_scored" / "metrics" / "per_class.csv")
        return summary["All"]["PQ"], {row["category"]: float(row["PQ"]) for row in rows}

    pq_of = {end: scored(end, lambda _, end=end: end)[1] for end in ENDS}
    perfect, _ = scored("perfect", lambda name: max(ENDS, key=lambda end: pq_of[end].get(name, 0.0)))
    assert read_budget(done.metrics)["perfect routing"]["PQ"] == pytest.approx(perfect)
    assert perfect > read_budget(done.metrics)["as fused"]["PQ"]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools under numpy 2
def test_perfect_order_is_what_the_stages_give_by_scores_that_are_the_ious_with_the_truth(done, tmp_path):
    truth = open_split(done.prepared, "val")
    true_masks = {}
    for image in truth.images:
        for segment in image.segments:
            if not segment.is_crowd:
                shown = truth.load_segment_ids(image) == segment.segment_id
                true_masks.setdefault((image.image_id, segment.category_id), []).append(shown)

    def score_by_iou(image):
        kept = np.flatnonzero(image.scores >= 0.1)
        scores = []
        for index in kept:
            mask = coco_mask.decode({"size": [image.height, image.width], "counts": image.rles[index]}).astype(bool)
            gt = true_masks.get((image.image_id, image.category_ids[index]), [])
            scores.append(max([(mask & shown).sum() / (mask | shown).sum() for shown in gt], default=0.0))
        return kept, np.array(scores, np.float32)

    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    for end in ENDS:
        rewrite_instances(predictions / end / "val" / INSTANCES_FILE, score_by_iou)
    rules = {"max_overlap_frac": 0.9}  # of two copies of a thing the second takes what the first leaves
    fused = done.fuse(tmp_path / "fused", "fusion", places={"predictions": predictions}, min_score=0.0, **rules)
    expected = done.score(tmp_path / "scored", fused)["fusion"]["All"]["PQ"]
    rows = budget_of(done, tmp_path / "budget", min_score=0.1, **rules)
    assert rows["perfect order"]["PQ"] == pytest.approx(expected)
    assert expected > rows["as fused"]["PQ"]


def test_it_changes_one_part_at_a_time(done, tmp_path):
    rows = budget_of(done, tmp_path / "sure", min_stuff_confidence=1.0)  # nowhere is the semantic map that sure
    stuff = {name: row["PQ_stuff"] for name, row in rows.items()}
    assert stuff.pop("true semantics") > 0
    assert set(stuff.values()) == {0}


def test_it_says_where_it_is_not_of_what_was_fused(done, tmp_path):
    plain = read_budget(done.metrics)
    unfitted = {"systems": ["e_ups"], "calibrated": True}  # calibrate fits listed systems only
    for name, choices in (("by the heuristic", {"methods": {"fusion": "panoptic_head"}}), ("not calibrated", unfitted)):
        rows = budget_of(done, tmp_path / name, **choices)
        assert list(rows) == [name, *list(plain)[1:]]
        assert list(rows.values()) == list(plain.values())


def test_that_of_auto_is_of_the_plain_heuristic_and_says_so(done, auto, tmp_path):
    rows = budget_of(done, tmp_path / "auto", places={"calibration": auto / "calibration"}, method="auto")
    assert next(iter(rows)) == "by the heuristic, not calibrated"
    assert list(rows.values()) == list(read_budget(done.metrics).values())


def test_that_of_a_union_starts_where_the_union_is(done, tmp_path):
    rows = budget_of(done, tmp_path / "budget", **UNION)
    fused = done.fuse(tmp_path / "fused", "fusion", **UNION)
    expected = done.score(tmp_path / "scored", fused)["fusion"]["All"]["PQ"]
    assert rows["as fused"]["PQ"] == pytest.approx(expected)
    assert rows["true instances"]["PQ_things"] == 100
    assert rows["perfect routing"] == read_budget(done.metrics)["perfect routing"]
