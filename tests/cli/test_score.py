"""`antvisionps score` on files that others wrote, in a folder without params.yaml."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image

import antvisionps
from antvisionps.cli import main as cli
from antvisionps.core.errors import AntVisionPSError, PredictionsError
from antvisionps.pipeline.score_results import read_scores, score_results
from tests.drawing import draw_ids
from tests.pipeline.workspace import read_csv

CATEGORIES = [
    {"id": 7, "name": "road", "isthing": 0},
    {"id": 24, "name": "person", "isthing": 1},
    {"id": 26, "name": "car", "isthing": 1},
]
TRUTH = {1: ("aab aab ccc", {1: 24, 2: 26, 3: 7}), 2: ("aaa bbb .bb", {1: 7, 2: 26})}
PREDICTED = {1: ("aab acb ccc", {1: 24, 2: 26, 3: 7}), 2: ("aaa .bb ccb", {1: 7, 2: 24, 3: 26})}


def write(root, name, maps, *, with_images=True):
    """As panopticapi's users do: RGB PNGs, and no area, box or iscrowd that the map tells."""
    folder = root / name
    folder.mkdir(parents=True)
    rows = []
    for image_id, (drawn, category_of) in maps.items():
        Image.fromarray(id2rgb(draw_ids(drawn))).save(folder / f"{image_id}.png")
        segments = [{"id": key, "category_id": value} for key, value in category_of.items()]
        rows.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    images = [{"id": key, "file_name": f"{key}.jpg", "height": 3, "width": 3} for key in maps]
    document = {"annotations": rows} | ({"images": images, "categories": CATEGORIES} if with_images else {})
    (root / f"{name}.json").write_text(json.dumps(document))
    return [str(root / f"{name}.json"), str(folder)]


@pytest.fixture
def gt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path, "gt", TRUTH)


@pytest.fixture
def pred(tmp_path):
    return write(tmp_path, "mine", PREDICTED, with_images=False)


def score(*arguments):
    cli.main(["score", "--workers", "1", *map(str, arguments)])


def test_json_has_every_measure_that_fractions_by_hand_give(gt, pred, capsys):
    """road: IoUs 3/4 and 1; person: 3/4 and a wrong one; car: 1, a miss, and a wrong one that is half on void."""
    score("--gt", *gt, "--pred", *pred, "--json")
    found = json.loads(capsys.readouterr().out)
    of_class = {row["category"]: [row[key] for key in ("PQ", "SQ", "RQ", "tp", "fp", "fn")] for row in found["classes"]}
    assert of_class["road"] == pytest.approx([87.5, 87.5, 100, 2, 0, 0])
    assert of_class["person"] == pytest.approx([50, 75, 200 / 3, 1, 1, 0])
    assert of_class["car"] == pytest.approx([50, 100, 50, 1, 1, 1])
    assert found["summary"]["mine"]["Stuff"]["PQ"] == pytest.approx(87.5)
    assert found["summary"]["mine"]["Things"]["PQ"] == pytest.approx(50)
    assert "intervals" not in found


def test_predictions_stand_side_by_side_with_the_interval_of_their_difference(gt, pred, tmp_path, capsys):
    score("--gt", *gt, "--pred", *pred, "--pred", *gt, "--intervals", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["gt"]["All"] == {"PQ": 100.0, "SQ": 100.0, "RQ": 100.0}
    (gain,) = (row for row in found["intervals"] if row["group"] == "All" and row["minus"])
    assert (gain["system"], gain["minus"]) == ("gt", "mine")
    assert gain["PQ"] == pytest.approx(100 - found["summary"]["mine"]["All"]["PQ"])
    assert gain["low"] <= gain["PQ"] <= gain["high"]
    score("--gt", *gt, "--pred", *pred, "--pred", *gt, "--intervals")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("person", "road", "mine", "PQTh", "95 %"))


def test_csv_files_hold_the_categories_and_the_counts_of_each_image(gt, pred, tmp_path, capsys):
    score("--gt", *gt, "--pred", *pred, "--csv", "out/classes.csv", "--per-image", "out/images.csv")
    classes, images = (read_csv(tmp_path / "out" / name) for name in ("classes.csv", "images.csv"))
    assert [row["category"] for row in classes] == ["person", "car", "road"]
    for row, category_id in zip(classes, ("24", "26", "7"), strict=True):
        of_images = [one for one in images if one["category_id"] == category_id]
        assert {one["image_id"] for one in of_images} == {"1", "2"}
        for count in ("tp", "fp", "fn"):
            assert sum(int(one[count]) for one in of_images) == int(row[count])


def test_boundary_pq_errors_lrp_and_slices_stand_beside_pq_where_asked_for(gt, pred, tmp_path, capsys):
    """Segments of so few pixels are all band, so that boundary PQ is PQ."""
    (tmp_path / "slices.csv").write_text("file_name,night\n1.jpg,yes\n2.jpg,no\n")
    options = ("--boundary", "--errors", "--lrp", "--coverage", "--slices", "slices.csv")
    score("--gt", *gt, "--pred", *pred, *options, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["boundary"] == {key: found[key] for key in ("summary", "classes")}
    lost = [row["PQ_lost"] for row in found["errors"]["groups"] if row["group"] == "All"]
    assert sum(lost) == pytest.approx(100 - found["summary"]["mine"]["All"]["PQ"])
    car = next(row for row in found["errors"]["classes"] if (row["category"], row["kind"]) == ("car", "class"))
    assert (car["segments"], car["PQ_lost"]) == (1, 25.0)
    (person,) = (row for row in found["lrp"]["classes"] if row["category"] == "person")
    assert [person[key] for key in ("LRP", "localisation", "FP", "FN")] == [75, 25, 50, 0]
    assert (person["optimal_LRP"], person["min_score"]) == (75, None)  # without scores
    assert [(row["value"], row["images"]) for row in found["slices"][::3]] == [("no", 1), ("yes", 1)]
    (of_all,) = (row for row in found["slice_means"] if row["group"] == "All")
    assert (of_all["worst"], of_all["PQ_worst"]) == (found["slices"][0]["value"], found["slices"][0]["PQ"])
    assert found["coverage"] == []  # without scores
    score("--gt", *gt, "--pred", *pred, *options)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("duplicate", "optimal_LRP", "by boundary IoU", "night"))


def test_the_best_threshold_follows_from_the_scores_of_segments_info(gt, pred, tmp_path, capsys):
    document = json.loads((tmp_path / "mine.json").read_text())
    for row in document["annotations"]:
        for segment in row["segments_info"]:
            segment["score"] = 0.2 if row["image_id"] == 2 else 0.9
    (tmp_path / "mine.json").write_text(json.dumps(document))
    score("--gt", *gt, "--pred", *pred, "--lrp", "--coverage", "--json")
    found = json.loads(capsys.readouterr().out)
    (person,) = (row for row in found["lrp"]["classes"] if row["category"] == "person")
    assert {row["segments"] for row in found["coverage"]} > {0}
    assert (person["optimal_LRP"], person["optimal_FP"], person["min_score"]) == (50, 0, 0.9)


def test_predictions_of_one_name_are_told_apart_by_their_folders(gt, tmp_path, capsys):
    for name in ("a", "b"):
        write(tmp_path / name, "panoptic", PREDICTED)
    files = [[f"{name}/panoptic.json", f"{name}/panoptic"] for name in ("a", "b")]
    score("--gt", *gt, "--pred", *files[0], "--pred", *files[1], "--json")
    assert [*json.loads(capsys.readouterr().out)["summary"]] == ["a", "b"]


def test_hugging_faces_maps_and_segments_score_the_same(gt, pred, tmp_path, capsys):
    """`post_process_panoptic_segmentation` counts segments from 0 and 1 on and has -1 for void."""
    rows = []
    (tmp_path / "hf").mkdir()
    for image_id, (drawn, category_of) in PREDICTED.items():
        np.save(tmp_path / "hf" / f"{image_id}.npy", draw_ids(drawn) - 1)
        segments = [{"id": key - 1, "label_id": value, "score": 0.9} for key, value in category_of.items()]
        rows.append({"image_id": image_id, "file_name": f"{image_id}.npy", "segments_info": segments})
    (tmp_path / "hf.json").write_text(json.dumps(rows))
    score("--gt", *gt, "--pred", *pred, "--pred", "hf.json", "hf", "--json")
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["hf"] == summary["mine"]


def test_labels_beside_the_json_tell_what_its_numbers_mean(gt, pred, tmp_path, capsys):
    label_of = {7: 0, 24: 1, 26: 2}
    maps = {
        image_id: (drawn, {key: label_of[value] for key, value in category_of.items()})
        for image_id, (drawn, category_of) in PREDICTED.items()
    }
    numbered = write(tmp_path / "own", "numbered", maps, with_images=False)
    (tmp_path / "own" / "labels.json").write_text(json.dumps(["road", "person", "car"]))
    score("--gt", *gt, "--pred", *pred, "--pred", *numbered, "--json")
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["numbered"] == summary["mine"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda maps: maps.pop(2), "image 2 is missing"),
        (lambda maps: maps.update({3: maps[1]}), "3 is not in this split"),
        (lambda maps: maps.update({1: ("aab aab", {1: 24, 2: 26})}), "expected 3 x 3 px.*got 2 x 3"),
        (lambda maps: maps[1][1].pop(2), "image 1: segment 2 is in the map, but not in segments_info"),
        (lambda maps: maps[1][1].update({9: 7}), "image 1: segment 9 has no pixel in the map"),
        (lambda maps: maps[1][1].update({1: 99}), "unknown category 99"),
    ],
)
def test_a_prediction_that_does_not_fit_is_one_line(gt, tmp_path, refused, change, problem):
    maps = {image_id: (drawn, dict(category_of)) for image_id, (drawn, category_of) in PREDICTED.items()}
    change(maps)
    pred = write(tmp_path, "mine", maps)
    line = refused("score", "--gt", *gt, "--pred", *pred, "--workers", 1, "--csv", "classes.csv")
    assert re.search(problem, line), line
    assert not (tmp_path / "classes.csv").exists()


def in_memory(maps):
    return [
        (draw_ids(drawn), [{"id": key, "category_id": value} for key, value in category_of.items()])
        for drawn, category_of in maps.values()
    ]


def test_arrays_in_memory_score_as_their_files(gt, pred):
    from_files = antvisionps.panoptic_quality(tuple(gt), tuple(pred))
    found = antvisionps.panoptic_quality(in_memory(TRUTH), in_memory(PREDICTED), categories=CATEGORIES)
    assert (found.all, found.things, found.stuff) == (from_files.all, from_files.things, from_files.stuff)
    assert found.classes == from_files.classes
    assert [of_image.tp.sum() for of_image in found.counts] == [3, 1]


class OnDevice:
    """A tensor of an accelerator: numpy takes it on the CPU alone."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def is_floating_point(self):
        return True

    def float(self):
        return self

    def numpy(self):
        return self._array

    def __array__(self, *_):
        raise TypeError("can't convert device type tensor to numpy")


def test_hugging_faces_results_in_memory_score_as_their_files(gt, pred):
    """Float maps with -1 for void, of an accelerator; ids of numpy, labels of a model."""
    id2label = {0: "road", 1: "person", 2: "car"}
    label_of = {7: 0, 24: 1, 26: 2}
    results = [
        (
            OnDevice(draw_ids(drawn).astype(np.float32) - 1),
            [{"id": np.int64(key - 1), "label_id": label_of[value]} for key, value in category_of.items()],
        )
        for drawn, category_of in PREDICTED.values()
    ]
    truth = [(OnDevice(ids), [row | {"id": np.int64(row["id"])} for row in rows]) for ids, rows in in_memory(TRUTH)]
    found = antvisionps.panoptic_quality(truth, results, categories=CATEGORIES, labels=id2label)
    assert found.classes == antvisionps.panoptic_quality(tuple(gt), tuple(pred)).classes
    nothing = [(np.full((3, 3), -1, np.float32), [])] * 2
    assert antvisionps.panoptic_quality(truth, nothing, categories=CATEGORIES).all.pq == 0
    with pytest.raises(PredictionsError, match=r"labels are of maps in memory; put them into .*labels\.json"):
        antvisionps.panoptic_quality(tuple(gt), tuple(pred), labels=id2label)


def test_of_several_rows_of_one_id_the_first_has_the_score(gt, tmp_path):
    """Hugging Face lists stuff that it fuses so."""
    rows = [{"id": 7, "label_id": 7, "score": score} for score in (0.9, 0.5)]
    (tmp_path / "hf").mkdir()
    np.save(tmp_path / "hf" / "map.npy", np.full((3, 3), 7))
    results = [{"image_id": image_id, "file_name": "map.npy", "segments_info": rows} for image_id in TRUTH]
    (tmp_path / "hf.json").write_text(json.dumps(results))
    files = tmp_path / "hf.json", tmp_path / "hf"
    truth, _ = score_results(tuple(map(Path, gt)), {"hf": files}, workers=1)
    confidence = read_scores(files, truth)
    assert confidence.scores.tolist() == [0.9] * 2


def test_a_crowd_in_memory_forgives_what_lies_on_it():
    rows = [{"id": 1, "category_id": 24, "iscrowd": 1}]
    gt = [(draw_ids("aaaa"), rows)]
    pred = [(draw_ids("ab.."), [{"id": 1, "category_id": 24}, {"id": 2, "category_id": 26}])]
    found = antvisionps.panoptic_quality(gt, pred, categories=CATEGORIES)
    assert {key: one.pq for key, one in found.classes.items()} == {26: 0.0}


@pytest.mark.parametrize(
    ("gt", "pred", "problem"),
    [
        (in_memory(TRUTH), in_memory(PREDICTED)[:1], "image at position 1: .*tuple and NoneType"),
        (in_memory(TRUTH), [(np.zeros((3, 3, 3), np.uint8), [])] * 2, r"expected \(H, W\) whole numbers"),
        (in_memory(TRUTH), [(np.zeros((3, 4), int), [])] * 2, r"expected a map of \(3, 3\)"),
        (in_memory(TRUTH), [(np.full((3, 3), 0.5), [])] * 2, "pred: expected whole numbers, got 0.5"),
        (in_memory(TRUTH), [(draw_ids("aab aab ccc"), [7])] * 2, "expected segments_info, a list of objects"),
        ([(draw_ids("a"), [{"id": 1, "category_id": 7}] * 2)], [(draw_ids("."), [])], "segment id 1 appears twice"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(gt, pred, problem):
    with pytest.raises(AntVisionPSError, match=problem):
        antvisionps.panoptic_quality(gt, pred, categories=CATEGORIES)
