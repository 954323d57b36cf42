"""What stage score writes beside PQ, by other people's scorers and by the definitions."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.calibration import calibration_curve

from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import visible_instances
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.fused_files import open_fused
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.evaluation.test_average_precision import coco_precision
from tests.evaluation.test_boundary import slow_counts
from tests.evaluation.test_coverage import panopticapi_counts
from tests.pipeline.workspace import ENDS, SYSTEMS, change_params, fail, read_csv, succeed


@pytest.fixture(scope="module")
def truth(done) -> PanopticDataset:
    return open_split(done.prepared, "val")


def test_boundary_pq_is_that_of_the_definition(done, truth):
    found = json.loads((done.metrics / "boundary_panoptic.json").read_text())
    rows = read_csv(done.metrics / "boundary_per_class.csv")
    for system in SYSTEMS:
        fused = open_fused(done.fused / system, truth)
        totals = {category_id: np.zeros(4) for category_id in truth.categories.category_ids.tolist()}
        for pair in zip(truth.images, fused.images, strict=True):
            maps = [
                (of.load_segment_ids(image), image.segments) for of, image in zip((truth, fused), pair, strict=True)
            ]
            for category_id, counts in slow_counts(maps, totals).items():
                totals[category_id] += counts
        of_class = {key: iou / (tp + fp / 2 + fn / 2) for key, (tp, fp, fn, iou) in totals.items() if tp + fp + fn}
        assert found[system]["All"]["PQ"] == pytest.approx(100 * np.mean([*of_class.values()]))
        assert len([row for row in rows if row["system"] == system]) == len(of_class)
    assert {row["size"] for row in read_csv(done.metrics / "boundary_per_size.csv")} == {"small", "medium", "large"}


def test_without_boundary_pq_its_tables_are_empty(done, tmp_path):
    params = change_params(done.params, tmp_path / "params.yaml", score={"boundary_pq": False})
    places = {"params": params, "out": tmp_path / "metrics", "scores": tmp_path / "scores"}
    succeed(done.run("score", "--no-error-budget", **places))
    assert json.loads((tmp_path / "metrics" / "boundary_panoptic.json").read_text()) == {}
    assert read_csv(tmp_path / "metrics" / "boundary_per_class.csv") == []
    assert (tmp_path / "metrics" / "lrp.csv").read_bytes() == (done.metrics / "lrp.csv").read_bytes()


def test_the_kinds_of_errors_add_up_to_what_pq_lacks(done):
    summary = json.loads((done.metrics / "panoptic.json").read_text())
    rows = read_csv(done.metrics / "error_kinds.csv")
    for system in SYSTEMS:
        for group, measures in summary[system].items():
            lost = [float(row["PQ_lost"]) for row in rows if (row["group"], row["system"]) == (group, system)]
            assert sum(lost) == pytest.approx(100 - measures["PQ"])
    of_class = read_csv(done.metrics / "error_kinds_per_class.csv")
    for row in read_csv(done.metrics / "per_class.csv"):
        own = [one for one in of_class if all(one[key] == row[key] for key in ("category", "system"))]
        assert sum(float(one["PQ_lost"]) for one in own) == pytest.approx(100 - float(row["PQ"]))
        unmatched = sum(int(one["segments"]) for one in own if one["kind"] != "outline")
        assert unmatched == int(row["fp"]) + int(row["fn"])


def maps_of(dataset, dropped=frozenset()):
    """The ids and segments of each image without some segments, {(image_id, segment_id)}."""
    for image in dataset.images:
        ids = dataset.load_segment_ids(image)
        kept = [s for s in image.segments if (image.image_id, s.segment_id) not in dropped]
        yield np.where(np.isin(ids, [s.segment_id for s in kept]), ids, 0), kept


def lrp(stat):
    """The authors' formula."""
    return 100 * ((stat.tp - stat.iou) / 0.5 + stat.fp + stat.fn) / (stat.tp + stat.fp + stat.fn)


def test_lrp_is_the_formula_on_panopticapis_counts_as_it_is_and_without_what_is_below_the_threshold(
    done, truth, tmp_path, capsys
):
    rows = {
        truth_id: row
        for row in read_csv(done.metrics / "lrp_per_class.csv")
        if row["system"] == "fusion"
        for truth_id in [c.category_id for c in truth.categories.categories if c.name == row["category"]]
    }
    fused = open_fused(done.fused / "fusion", truth)
    segments = pq.read_table(done.fused / "fusion" / "segments.parquet").to_pylist()
    below = {
        (one["image_id"], one["segment_id"])
        for one in segments
        if (least := rows[one["category_id"]]["min_score"]) and one["score"] < float(least)
    }
    assert below
    categories = {c.category_id: {"isthing": c.is_thing} for c in truth.categories.categories}
    as_it_is, best = (
        panopticapi_counts(zip(maps_of(truth), maps_of(fused, dropped), strict=True), tmp_path / name, categories)
        for name, dropped in (("all", frozenset()), ("kept", below))
    )
    for category_id, row in rows.items():
        assert float(row["LRP"]) == pytest.approx(lrp(as_it_is[category_id]))
        assert float(row["optimal_LRP"]) == pytest.approx(lrp(best[category_id]))
        assert not row["min_score"] or truth.categories.by_id(category_id).is_thing
    all_of_them = [
        row for row in read_csv(done.metrics / "lrp.csv") if (row["group"], row["system"]) == ("All", "fusion")
    ]
    for name in ("LRP", "optimal_LRP", "localisation"):
        assert float(all_of_them[0][name]) == pytest.approx(
            np.mean([float(row[name]) for row in rows.values() if row[name]])
        )


def test_ap_and_precision_by_recall_of_the_ends_are_cocoevals(done, truth):
    ends = json.loads((done.metrics / "ends.json").read_text())
    ap_rows = read_csv(done.metrics / "per_class_ap.csv")
    curves = read_csv(done.metrics / "precision_recall.csv")
    of_classes = pq.read_table(done.scores / "precision_recall_per_class.parquet").to_pylist()
    things = [category.category_id for category in truth.categories.things]
    for end in ENDS:
        with InstancesReader(done.predictions / end / "val" / INSTANCES_FILE) as reader:
            images = [
                (found, visible_instances(truth.load_segment_ids(image), image, truth.categories))
                for image, found in zip(truth.images, reader, strict=True)
            ]
        precision = coco_precision(images, things)
        known = {key: values for key, values in precision.items() if (values > -1).all()}
        assert ends[end]["AP"] == pytest.approx(100 * np.mean([values.mean() for values in known.values()]))
        assert ends[end]["AP50"] == pytest.approx(100 * np.mean([values[0].mean() for values in known.values()]))
        assert len([row for row in ap_rows if row["end"] == end]) == len(known)
        curve = [float(row["precision"]) for row in curves if row["end"] == end]
        np.testing.assert_allclose(curve, np.mean([values[0] for values in known.values()], axis=0), atol=1e-12)
        for key, values in known.items():
            own = [row["precision"] for row in of_classes if (row["end"], row["category_id"]) == (end, key)]
            np.testing.assert_allclose(own, values[0], atol=1e-12)


def test_the_reliability_of_semantics_is_sklearns(done, truth):
    rows = read_csv(done.metrics / "reliability.csv")
    for end, stride in ENDS.items():
        confidence, is_right = [], []
        with SemanticReader(done.predictions / end / "val" / SEMANTIC_FILE) as reader:
            for image, found in zip(truth.images, reader, strict=True):
                ids = truth.load_segment_ids(image)
                category_of = {s.segment_id: s.category_id for s in image.segments}
                for y, x in np.ndindex(*found.planes.shape[1:]):
                    centre = ids[int((y + 0.5) * stride), int((x + 0.5) * stride)]
                    if centre:
                        probs = found.planes[:, y, x]
                        confidence.append(probs.max() / 255)
                        is_right.append(found.category_ids[probs.argmax()] == category_of[int(centre)])
        own = [row for row in rows if (row["name"], row["of"]) == (end, "semantics")]
        expected = calibration_curve(is_right, confidence, n_bins=15)
        found_means = [[float(row[name]) for row in own] for name in ("right", "confidence")]
        np.testing.assert_allclose(found_means, expected, atol=1e-12)
        assert sum(int(row["count"]) for row in own) == len(confidence)


def test_errors_of_calibration_follow_from_the_bins_which_hold_every_score(done):
    rows, errors = (read_csv(done.metrics / name) for name in ("reliability.csv", "calibration_error.csv"))
    assert {(row["name"], row["of"]) for row in errors} == {
        *((end, of) for end in ENDS for of in ("instances", "semantics")),
        *((system, "segments") for system in SYSTEMS),
    }
    for one in errors:
        own = [row for row in rows if all(row[key] == one[key] for key in ("name", "of"))]
        count, confidence, right = (np.array([float(row[k]) for row in own]) for k in ("count", "confidence", "right"))
        assert float(one["ECE"]) == pytest.approx(100 * np.sum(count * np.abs(confidence - right)) / count.sum())
        assert int(one["count"]) == count.sum()
        if one["of"] == "instances":
            with InstancesReader(done.predictions / one["name"] / "val" / INSTANCES_FILE) as reader:
                scores = np.concatenate([found.scores for found in reader])
            assert (count.sum(), (count * confidence).sum()) == pytest.approx((len(scores), scores.sum()))


def test_of_a_systems_things_those_are_right_that_match(done):
    things = [row for row in read_csv(done.metrics / "per_size.csv") if row["system"] == "fusion"]
    rows = [
        row for row in read_csv(done.metrics / "reliability.csv") if (row["name"], row["of"]) == ("fusion", "segments")
    ]
    right, count = sum(float(row["right"]) * int(row["count"]) for row in rows), sum(int(row["count"]) for row in rows)
    assert right == pytest.approx(sum(int(row["tp"]) for row in things))
    assert count == sum(int(row["tp"]) + int(row["fp"]) for row in things)


def test_coverage_begins_with_the_pq_of_all_and_ends_without_a_thing(done, truth):
    summary = json.loads((done.metrics / "panoptic.json").read_text())
    rows = read_csv(done.metrics / "coverage.csv")
    for system in SYSTEMS:
        segments = pq.read_table(done.fused / system / "segments.parquet").to_pylist()
        for group, measures in summary[system].items():
            first, *_, last = (row for row in rows if (row["group"], row["system"]) == (group, system))
            assert [float(first[key]) for key in ("PQ_kept", "PQ_mended")] == pytest.approx([measures["PQ"]] * 2)
            assert int(first["segments"]) == sum(one["score"] is not None for one in segments)
            assert (last["coverage"], last["min_confidence"]) == ("0.0", "")
            if group == "Stuff":  # the heuristic gives it no confidence
                assert float(last["PQ_kept"]) == pytest.approx(measures["PQ"])


def test_where_the_ends_differ_counts_the_cells_of_the_coarsest_end(done):
    rows = read_csv(done.metrics / "disagreement.csv")
    (cells,) = (
        int(row["count"])
        for row in read_csv(done.metrics / "calibration_error.csv")
        if (row["name"], row["of"]) == (max(ENDS, key=ENDS.get), "semantics")
    )
    assert rows[0]["category"] == "All"
    assert int(rows[0]["cells"]) == sum(int(row["cells"]) for row in rows[1:]) == cells
    assert all(0 < float(rows[0][key]) < 100 for key in ("disagreement", "differ"))


def test_provenance_is_what_the_caches_and_the_packages_say(done):
    found = json.loads((done.metrics / "provenance.json").read_text())
    assert set(found) == {"dataset", "weights", "versions"}
    for end in ENDS:
        with InstancesReader(done.predictions / end / "val" / INSTANCES_FILE) as reader:
            assert found["weights"][end] == reader.header.weights_sha256
            assert found["dataset"] == reader.header.dataset_fingerprint
    assert found["versions"]["numpy"] == np.__version__


@pytest.fixture
def with_slices(done, tmp_path):
    def score(text):
        (tmp_path / "slices.csv").write_text(text)
        params = change_params(
            done.params, tmp_path / "params.yaml", score={"slices": str(tmp_path / "slices.csv"), "boundary_pq": False}
        )
        places = {"params": params, "out": tmp_path / "metrics", "scores": tmp_path / "scores"}
        return done.run("score", "--no-error-budget", **places)

    return score


def test_slices_have_the_pq_of_their_images_the_worst_first(done, truth, with_slices, tmp_path):
    names = [image.file_name for image in truth.images]
    cells = [("yes", "a"), ("no", "b"), ("no", "a"), ("yes", ""), ("no", "b")]
    lines = [f"{name},{night},{city}" for name, (night, city) in zip(names, cells, strict=True)]
    succeed(with_slices("\n".join(["file_name,night,city", *lines, "other.jpg,yes,c"]) + "\n"))
    rows = read_csv(tmp_path / "metrics" / "slices.csv")
    assert {(row["attribute"], row["value"]) for row in rows} == {
        ("night", "yes"),
        ("night", "no"),
        ("city", "a"),
        ("city", "b"),
    }
    counts = pq.read_table(done.scores / "per_image.parquet").to_pylist()
    chosen = {"yes": [0, 3], "no": [1, 2, 4], "a": [0, 2], "b": [1, 4]}
    for value, positions in chosen.items():
        ids = {truth.images[position].image_id for position in positions}
        for system in SYSTEMS:
            of_class = {}
            for row in counts:
                if row["system"] == system and row["image_id"] in ids:
                    sums = of_class.setdefault(row["category_id"], np.zeros(2))
                    sums += (row["iou_sum"], row["tp"] + row["fp"] / 2 + row["fn"] / 2)
            expected = 100 * np.mean([iou / weight for iou, weight in of_class.values() if weight])
            (row,) = (
                row
                for row in rows
                if (row["value"], row["system"], row["group"], row["minus"]) == (value, system, "All", "")
            )
            assert float(row["PQ"]) == pytest.approx(expected)
            assert float(row["low"]) - 1e-9 <= expected <= float(row["high"]) + 1e-9
            assert int(row["images"]) == len(positions)
    of_last = [
        (row["attribute"], float(row["PQ"]))
        for row in rows
        if (row["group"], row["system"], row["minus"]) == ("All", SYSTEMS[-1], "")
    ]
    assert of_last == sorted(of_last)
    means = read_csv(tmp_path / "metrics" / "slice_means.csv")
    assert len(means) == 2 * 3 * len(SYSTEMS)
    for row in means:
        same = ("attribute", "group", "system")
        own = [one for one in rows if one["minus"] == "" and one["PQ"] and all(one[key] == row[key] for key in same)]
        pqs, images = ([float(one[key]) for one in own] for key in ("PQ", "images"))
        weighted = sum(pq * count for pq, count in zip(pqs, images, strict=True)) / sum(images)
        found = [float(row[key]) for key in ("PQ_equal", "PQ_by_images", "PQ_worst")]
        assert found == pytest.approx([sum(pqs) / len(pqs), weighted, min(pqs)])
        assert row["worst"] == own[pqs.index(min(pqs))]["value"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines[:-1], "image .*png is missing; add a row for it"),
        (lambda lines: [*lines, lines[1]], "line 7: image .*png appears twice; keep one"),
        (lambda lines: ["name,night", *lines[1:]], "expected a column file_name and one for each attribute"),
        (lambda lines: [f",{line}" for line in lines], "column 1 .*index=False"),
        (lambda lines: [*lines, "x.png"], "line 7: expected 2 cells, got 1; mend the line"),
        (lambda _: [], "expected a CSV of images"),
    ],
)
def test_a_csv_that_does_not_fit_is_one_line(truth, with_slices, tmp_path, change, problem):
    lines = ["file_name,night", *(f"{image.file_name},yes" for image in truth.images)]
    line = fail(with_slices("".join(f"{one}\n" for one in change(lines))))
    assert line.startswith(f"error: {tmp_path / 'slices.csv'}: ")
    assert re.search(problem, line), line
    assert not (tmp_path / "metrics").exists()
