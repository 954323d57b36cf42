"""The metrics by other people's scorers and formulas, the tables and the pictures."""

import json
import shutil
import tracemalloc

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.panoptic.splits import open_split
from antvisionps.params.whole import load_params
from antvisionps.pipeline.score import write_overlays
from tests.drawing import category_set
from tests.pipeline.workspace import ENDS, SYSTEMS, read_csv

GROUPS = ("All", "Things", "Stuff")


@pytest.fixture(scope="module")
def metrics(done):
    return json.loads((done.metrics / "panoptic.json").read_text())


@pytest.fixture(scope="module")
def per_image(done):
    return pq.read_table(done.scores / "per_image.parquet").to_pylist()


def test_the_metrics_are_panopticapis_and_hotcocos(done, metrics, panopticapi_pq):
    panoptic = pytest.importorskip("hotcoco.panoptic")
    truth = open_split(done.prepared, "val")
    assert tuple(metrics) == SYSTEMS
    for system in SYSTEMS:
        folder = done.fused / system
        places = [*map(str, (truth.annotations, folder / "panoptic.json", truth.panoptic_dir, folder / "panoptic"))]
        for expected in (panopticapi_pq(*places), panoptic.pq_compute(*places)):
            for group in GROUPS:
                found = metrics[system][group]
                assert found == pytest.approx({name: 100 * expected[group][name.lower()] for name in found}, abs=1e-9)
    assert 0 < metrics["fusion"]["All"]["PQ"] < 100
    printed = (done.root / "score.txt").read_text()
    assert "…" not in printed
    assert all(word in printed for word in (*SYSTEMS, "PQTh"))


def test_per_class_rows_are_those_of_the_metrics(done, metrics):
    rows = read_csv(done.metrics / "per_class.csv")
    assert list(rows[0]) == ["category", "system", "PQ", "SQ", "RQ", "tp", "fp", "fn"]
    for system in SYSTEMS:
        values = [float(row["PQ"]) for row in rows if row["system"] == system]
        assert np.mean(values) == pytest.approx(metrics[system]["All"]["PQ"])


def test_the_sizes_of_things_part_their_segments(done, per_image):
    things = {category.category_id for category in open_split(done.prepared, "val").categories.things}
    rows = read_csv(done.metrics / "per_size.csv")
    for system in SYSTEMS:
        for count in ("tp", "fp", "fn"):
            expected = sum(r[count] for r in per_image if r["system"] == system and r["category_id"] in things)
            assert sum(int(row[count]) for row in rows if row["system"] == system) == expected


def pq_of_draw(rows, times, category_ids):
    """PQ in percent by its definition, of rows of per_image.parquet that each count as often as its image is drawn."""
    values = []
    for category_id in category_ids:
        own = [row for row in rows if row["category_id"] == category_id]
        iou_sum = sum(times[row["image_id"]] * row["iou_sum"] for row in own)
        weight = sum(times[row["image_id"]] * (row["tp"] + row["fp"] / 2 + row["fn"] / 2) for row in own)
        if weight:
            values.append(100 * iou_sum / weight)
    return np.mean(values)


def test_every_pq_and_every_difference_has_the_interval_of_resampled_images(done, metrics, per_image):
    truth, score = open_split(done.prepared, "val"), load_params(done.params).score
    ids = [image.image_id for image in truth.images]
    drawn = np.random.default_rng(score.seed).multinomial(len(ids), [1 / len(ids)] * len(ids), score.bootstrap_samples)
    draws = [dict(zip(ids, times, strict=True)) for times in [[1] * len(ids), *drawn.tolist()]]
    categories = truth.categories
    of_group = dict(zip(GROUPS, (categories.categories, categories.things, categories.stuff), strict=True))
    samples = {
        (system, group): np.array([pq_of_draw(rows, times, [c.category_id for c in listed]) for times in draws])
        for system in SYSTEMS
        for rows in [[row for row in per_image if row["system"] == system]]
        for group, listed in of_group.items()
    }
    rows = read_csv(done.metrics / "intervals.csv")
    assert len(rows) == len(GROUPS) * (len(SYSTEMS) + 3)
    for row in rows:
        expected = samples[row["system"], row["group"]]
        if row["minus"]:
            expected = expected - samples[row["minus"], row["group"]]
        else:
            assert expected[0] == pytest.approx(metrics[row["system"]][row["group"]]["PQ"])
        found = [float(row[name]) for name in ("PQ", "low", "high")]
        assert found == pytest.approx([expected[0], *np.quantile(expected[1:], [0.025, 0.975])], abs=1e-9)


def test_between_two_equal_systems_there_is_no_doubt(done, tmp_path):
    """Whatever images are drawn, both systems are scored on the same ones."""
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    shutil.rmtree(fused / "lwl_htc")
    shutil.copytree(fused / "e_ups", fused / "lwl_htc")
    done.score(tmp_path / "scored", fused)
    rows = read_csv(tmp_path / "scored" / "metrics" / "intervals.csv")
    rows = [row for row in rows if {row["system"], row["minus"]} == set(ENDS)]
    assert [[float(row[name]) for name in ("PQ", "low", "high")] for row in rows] == [[0, 0, 0]] * 3


def test_a_picture_shows_photo_truth_and_every_system(done):
    pictures = sorted((done.scores / "overlays").iterdir())
    truth = open_split(done.prepared, "val")
    assert [path.name for path in pictures] == [f"{image.image_id:012d}.png" for image in truth.images[:2]]
    # Small images are enlarged.
    assert cv2.imread(str(pictures[0])).shape[1] >= (2 + len(SYSTEMS)) * 2 * truth.images[0].width


def test_pictures_of_large_images_take_little_memory(tmp_path):
    """Bounded by what is drawn: a photo, a map, and their decoding; never a panel at full size."""
    ids = np.repeat(np.repeat(np.array([[1, 2], [3, 0]]), 1500, axis=0), 2000, axis=1)
    write_segment_ids_png(tmp_path / "a.png", ids)
    Image.fromarray(np.full((*ids.shape, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    categories = category_set({7: "dog"}, {4: "sky"})
    image = PanopticImage(1, "a.jpg", "a.png", *ids.shape, measure_segments(ids, category_ids={1: 7, 2: 7, 3: 4}))
    truth = PanopticDataset(tmp_path / "a.json", tmp_path, tmp_path, categories, (image,))
    tracemalloc.start()
    write_overlays(tmp_path / "out", truth, {f"system {number}": truth for number in range(4)}, images=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * ids.size  # at full size, the panels and the picture of them have 36 bytes a pixel alone
    assert cv2.imread(str(tmp_path / "out" / "000000000001.png")).shape == (24 + 1536, 6 * 2048 + 5 * 4, 3)


OF_THE_CACHES = {
    "error_budget.csv": b"perfect,PQ,PQ_things,PQ_stuff\n",
    "ends.json": b"{}\n",
    "per_class_ap.csv": b"category,end,AP,AP50,n_gt\n",
    "precision_recall.csv": b"end,recall,precision\n",
    "disagreement.csv": b"category,cells,disagreement,differ,wrong_where_same,wrong_where_differ\n",
    "lrp_of_ends.csv": b"category,end,LRP,localisation,FP,FN,"
    b"optimal_LRP,optimal_localisation,optimal_FP,optimal_FN,min_score\n",
}


def test_without_an_error_budget_the_tables_of_the_caches_are_empty_and_the_rest_is_the_same(done, tmp_path):
    done.score(tmp_path / "scored", done.fused)
    metrics = tmp_path / "scored" / "metrics"
    for path in done.metrics.iterdir():
        if path.name in ("reliability.csv", "calibration_error.csv"):
            of_systems = [row for row in read_csv(path) if row["of"] == "segments"]
            assert read_csv(metrics / path.name) == of_systems != []
        elif path.name == "provenance.json":
            assert json.loads((metrics / path.name).read_text()) == json.loads(path.read_text()) | {"weights": {}}
        else:
            assert (metrics / path.name).read_bytes() == OF_THE_CACHES.get(path.name, path.read_bytes())
    assert pq.read_table(tmp_path / "scored" / "scores" / "precision_recall_per_class.parquet").num_rows == 0


def test_progress_counts_images_and_not_what_a_process_takes_at_once(done, tmp_path):
    places = {"out": tmp_path / "metrics", "scores": tmp_path / "scores"}
    last = done.run("score", "--no-error-budget", **places).stderr.split("\r")[-1]
    assert "score: 100%" in last
    assert "| 5/5 [" in last
    assert "image/s" in last
