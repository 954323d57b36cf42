"""evaluate_heldout, fuse and score on a small data set whose two ends are noisy copies of the truth."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ruamel.yaml import YAML

from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.evaluation.bootstrap import draw_images
from antvisionps.evaluation.panoptic_quality import MatchCounts, class_quality, group_quality, total_counts
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import class_index_map
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.whole import load_params
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader, cache_path
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from antvisionps.predictions.split_caches import SplitCaches
from stages import calibrate

PROJECT = Path(__file__).parents[2]
ENDS = {"e_ups": 4.0, "lwl_htc": 8.0}
"""End → stride of its semantic grid."""
SYSTEMS = (*ENDS, "fusion")
PATIENCE_S = 300
"""A stage that takes longer hangs."""


def noisy_instances(dataset, image, rng):
    """Every true thing, shifted a little, some twice and some with holes, and random scores."""
    ids = dataset.load_segment_ids(image)
    rows = []
    for segment in image.segments:
        if not dataset.categories.by_id(segment.category_id).is_thing or segment.is_crowd:
            continue
        for _ in range(rng.integers(0, 3)):
            mask = np.roll(ids == segment.segment_id, rng.integers(-2, 3, 2), axis=(0, 1))
            rows.append((segment.category_id, rng.random(), mask))
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.array([category_id for category_id, _, _ in rows], np.int32),
        scores=np.array([score for _, score, _ in rows], np.float32),
        boxes_xywh=np.array([box_of(mask) for _, _, mask in rows], np.float32).reshape(-1, 4),
        rles=encode_masks(np.array([mask for _, _, mask in rows])) if rows else [],
        mask_probs=np.array([mask_probs_of(mask) for _, _, mask in rows], np.uint8).reshape(-1, 28, 28),
    )


def box_of(mask):
    return cv2.boundingRect(mask.astype(np.uint8))


def mask_probs_of(mask):
    x, y, width, height = box_of(mask)
    return cv2.resize(255 * mask[y : y + height, x : x + width].astype(np.uint8), (28, 28))


def noisy_semantics(dataset, image, stride, rng):
    classes = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
    step = int(stride)
    coarse = classes[step // 2 :: step, step // 2 :: step]
    probs = np.eye(256)[coarse][..., : len(dataset.categories)].transpose(2, 0, 1)
    probs = 0.6 * probs + 0.4 * rng.dirichlet(np.ones(len(probs)), coarse.shape).transpose(2, 0, 1)
    return ImageSemantics.from_probs(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        input_height=image.height,
        input_width=image.width,
        stride=stride,
        category_ids=dataset.categories.category_ids,
        probs=probs,
    )


def write_caches(prepared, predictions):
    rng = np.random.default_rng(5)
    for end, stride in ENDS.items():
        for split in ("heldout", "val"):
            dataset = open_split(prepared, split)
            header = CacheHeader(end, split, dataset_fingerprint(prepared), dataset.categories, "weights")
            place = {"end": end, "split": split}
            with (
                InstancesWriter(cache_path(predictions, file_name=INSTANCES_FILE, **place), header) as instances,
                SemanticWriter(cache_path(predictions, file_name=SEMANTIC_FILE, **place), header) as semantics,
            ):
                for image in dataset.images:
                    instances.write(noisy_instances(dataset, image, rng))
                    semantics.write(noisy_semantics(dataset, image, stride, rng))


def write_params(path, *, workers=1, **fuse):
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(PROJECT / "params.yaml")
    document["ends"] = list(ENDS)
    settings = {"systems": list(SYSTEMS), "min_score": 0.3, "max_overlap_frac": 0.5, "min_stuff_area_px": 32}
    document["fuse"] |= settings | {"semantic_weights": {"e_ups": 1.0, "lwl_htc": 0.5}} | fuse
    document["evaluate_heldout"] |= {"min_heldout_instances": 2, "bootstrap_samples": 50}
    document["score"] |= {"overlay_images": 2, "bootstrap_samples": 200}
    document["runtime"]["workers"] = workers
    with path.open("w") as file:
        yaml.dump(document, file)
    return path


class Workspace:
    """A folder with what the stages read; `run` runs one as DVC does."""

    def __init__(self, root):
        self.root = root
        self.prepared, self.predictions, self.routing = root / "prepared", root / "predictions", root / "routing"
        self.fused, self.metrics, self.overlays = root / "fused", root / "metrics", root / "overlays"
        self.params = root / "params.yaml"

    def instances(self, end):
        """Image → rows of the end's instances of val."""
        rows_of = {}
        for row in pq.read_table(self.predictions / end / "val" / INSTANCES_FILE).to_pylist():
            rows_of.setdefault(row["image_id"], []).append(row)
        return rows_of

    def run(self, stage, *arguments, **places):
        command = self.command(stage, *arguments, **places)
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=PATIENCE_S)

    def command(self, stage, *arguments, **places):
        """What runs `stages/<stage>.py`; `places` become path options in place of this workspace's own."""
        own = {
            "evaluate_heldout": {"prepared": self.prepared, "predictions": self.predictions, "out": self.routing},
            "fuse": {"prepared": self.prepared, "predictions": self.predictions, "routing": self.routing},
            "calibrate": {"prepared": self.prepared, "predictions": self.predictions, "routing": self.routing},
            "error_budget": {"prepared": self.prepared, "predictions": self.predictions, "routing": self.routing},
            "score": {
                "prepared": self.prepared,
                "fused": self.fused,
                "out": self.metrics,
                "overlays": self.overlays,
            },
            "report": {
                "prepared": self.prepared,
                "models": self.root / "models",
                "predictions": self.predictions,
                "routing": self.routing,
                "fused": self.fused,
                "metrics": self.metrics,
            },
        }[stage]
        options = {"params": self.params, **own, **places}
        command = [sys.executable, str(PROJECT / "stages" / f"{stage}.py"), *arguments]
        for name, path in options.items():
            command += [f"--{name}", str(path)]
        return command


def succeed(ran):
    assert ran.returncode == 0, ran.stderr
    return ran


def fail(ran):
    """The one line on stderr of a stage that refused."""
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    return line


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A workspace after evaluate_heldout, fuse of every system and score; tests only read it."""
    space = Workspace(tmp_path_factory.mktemp("space"))
    prepare_scenes(
        space.prepared, train_images=12, val_images=5, height=96, width=128, heldout_images=8, seed=3, workers=1
    )
    write_caches(space.prepared, space.predictions)
    write_params(space.params)
    succeed(space.run("evaluate_heldout"))
    succeed(space.run("fuse", out=space.fused))
    space.printed = succeed(space.run("score")).stdout
    return space


@pytest.fixture(scope="module")
def calibrated(done):
    """The folder of what calibrate found for every system."""
    out = done.root / "calibration"
    succeed(done.run("calibrate", out=out))
    assert {path.name for path in out.iterdir()} == {f"{system}.json" for system in SYSTEMS}
    return out


def test_calibration_never_loses_on_held_out(calibrated):
    found = json.loads((calibrated / "fusion.json").read_text())
    assert found["heldout_pq"]["calibrated"] > found["heldout_pq"]["plain"] > 0
    assert 0 < found["heldout_pq"]["cross_validated"] < 1
    assert set(found["semantic_weights"]) == set(ENDS)


@pytest.fixture
def recording_trials(done):
    """Trials on held-out that note, in `noted`, the images and the number of settings of each pass."""

    @dataclass(frozen=True)
    class RecordingTrials(calibrate.Trials):
        noted: list = field(default_factory=list)

        def counts(self, settings):
            self.noted.append(([image.image_id for image in self.images], len(settings)))
            return super().counts(settings)

    heldout = open_split(done.prepared, "heldout")
    return RecordingTrials(done.prepared, done.predictions, heldout.categories, heldout.images, 1)


@pytest.fixture
def start(done, recording_trials):
    params = load_params(done.params)
    categories = recording_trials.categories
    return calibrate.starting_settings("fusion", params, categories=categories, routing_dir=done.routing)


def test_cross_validation_measures_no_image_by_what_was_fitted_on_it(start, recording_trials):
    assert 0 < calibrate.cross_validated_pq(start, recording_trials, min_heldout_instances=1) < 1
    ids = [image.image_id for image in recording_trials.images]
    one, other = ids[::2], ids[1::2]
    passes = [images for images, _ in recording_trials.noted]
    turn = passes.index(other)
    assert passes == [one] * turn + [other] + [other] * (len(passes) - turn - 2) + [one]
    assert turn > 4
    assert recording_trials.noted[turn][1] == recording_trials.noted[-1][1] == 1


def test_cross_validation_of_halves_that_are_alike_gives_what_was_calibrated(start, recording_trials):
    twice = replace(recording_trials, images=[image for image in recording_trials.images for _ in range(2)])
    calibration = calibrate.calibrate(start, recording_trials, min_heldout_instances=1)
    found = calibrate.cross_validated_pq(start, twice, min_heldout_instances=1)
    assert found == pytest.approx(calibration.heldout_pq["calibrated"], abs=1e-12)
    assert calibrate.cross_validated_pq(start, replace(twice, images=twice.images[:1]), min_heldout_instances=1) is None


def test_calibration_reads_no_image_of_val(done, calibrated, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    for end in ENDS:
        shutil.rmtree(predictions / end / "val")
    out = tmp_path / "fusion.json"
    params = write_params(tmp_path / "params.yaml", workers=2)
    succeed(done.run("calibrate", "--system", "fusion", params=params, predictions=predictions, out=out))
    assert out.read_bytes() == (calibrated / "fusion.json").read_bytes()


def test_fuse_takes_the_calibration_if_asked_to(done, calibrated, tmp_path):
    params = write_params(tmp_path / "params.yaml", calibrated=True)
    arguments = ["fuse", "--system", "fusion"]
    succeed(done.run(*arguments, params=params, calibration=calibrated, out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused") != bytes_below(done.fused / "fusion")
    missing = fail(done.run(*arguments, params=params, calibration=tmp_path / "nowhere", out=tmp_path / "x"))
    assert "no readable calibration" in missing
    assert "needs --calibration" in fail(done.run(*arguments, params=params, out=tmp_path / "x"))


@pytest.mark.parametrize("other", [{"preset": "mmdet"}, {"max_nms_iou": 0.1, "min_score": 0.9}])
def test_thresholds_that_were_fitted_are_fused_with_no_others(done, calibrated, tmp_path, other):
    for name, fuse in (("alone", {}), ("beside_others", other)):
        params = write_params(tmp_path / f"{name}.yaml", calibrated=True, **fuse)
        succeed(done.run("fuse", "--system", "fusion", params=params, calibration=calibrated, out=tmp_path / name))
    assert bytes_below(tmp_path / "beside_others") == bytes_below(tmp_path / "alone")


def test_a_class_may_have_a_score_threshold_of_its_own_by_name_or_id(done, tmp_path):
    """Of that class what scores less fell; of the others all is as it was."""
    one, other, *_ = open_split(done.prepared, "val").categories.things
    for name, min_scores in (("by_name", {one.name: 0.6, other.category_id: 0.0}), ("by_id", {one.category_id: 0.6})):
        params = write_params(tmp_path / f"{name}.yaml", min_scores=min_scores)
        succeed(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / name))
        lowest = {category.category_id: 0.3 for category in open_split(done.prepared, "val").categories.things}
        lowest |= {one.category_id: 0.6} | ({other.category_id: 0.0} if name == "by_name" else {})
        for row in pq.read_table(tmp_path / name / "candidates.parquet").to_pylist():
            if row["score"] is not None:
                assert (row["reason"] == "low_score") == (row["score"] < lowest[row["category_id"]])


@pytest.mark.parametrize("key", ["dragon", 999, "sky", 0])
def test_a_score_threshold_of_no_thing_is_refused(done, tmp_path, key):
    things = open_split(done.prepared, "val").categories.things
    params = write_params(tmp_path / "params.yaml", min_scores={key: 0.5})
    line = fail(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / "fused"))
    assert f"fuse.min_scores names {key!r}; expected things by name or id, of {things[0].name} (" in line
    assert not (tmp_path / "fused").exists()


def test_the_learned_order_is_fused_without_what_else_was_fitted(done, calibrated, tmp_path):
    """A class that lies over all others shows more of itself."""
    document = json.loads((calibrated / "fusion.json").read_text())
    assert set(map(tuple, document["on_top"])) <= set(map(tuple, document["learned_on_top"]))
    first, *others = (category.category_id for category in open_split(done.prepared, "val").categories.things)
    (tmp_path / "calibration").mkdir()
    areas = {}
    for name, pairs in (("none", []), ("first", [[first, other] for other in others])):
        (tmp_path / "calibration" / "e_ups.json").write_text(
            json.dumps(document | {"learned_on_top": pairs, "semantic_weights": {"e_ups": 1.0}})
        )
        params = write_params(tmp_path / "params.yaml", order="learned", max_overlap_frac=1.0)
        places = {"params": params, "calibration": tmp_path / "calibration", "out": tmp_path / name}
        succeed(done.run("fuse", "--system", "e_ups", **places))
        rows = pq.read_table(tmp_path / name / "segments.parquet").to_pylist()
        areas[name] = sum(row["area_px"] for row in rows if row["category_id"] == first)
    plain = write_params(tmp_path / "plain.yaml", max_overlap_frac=1.0)
    succeed(done.run("fuse", "--system", "e_ups", params=plain, out=tmp_path / "plain"))
    assert bytes_below(tmp_path / "none") == bytes_below(tmp_path / "plain")
    assert areas["first"] > areas["none"]
    assert "needs --calibration" in fail(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / "x"))


def read_budget(path):
    """Perfect part → column → number."""
    with path.open() as file:
        return {row.pop("perfect"): {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)}


def test_the_error_budget_starts_where_the_fusion_is_and_truth_is_perfect(done, tmp_path):
    succeed(done.run("error_budget", out=tmp_path / "error_budget.csv"))
    rows = read_budget(tmp_path / "error_budget.csv")
    metrics = json.loads((done.metrics / "panoptic.json").read_text())["fusion"]
    assert rows["as fused"]["PQ"] == pytest.approx(metrics["All"]["PQ"])
    assert rows["as fused"]["PQ_stuff"] == pytest.approx(metrics["Stuff"]["PQ"])
    assert rows["true instances"]["PQ_things"] == 100
    assert rows["true semantics"]["PQ_stuff"] > rows["as fused"]["PQ_stuff"]
    assert rows["true semantics"]["PQ_things"] == pytest.approx(rows["as fused"]["PQ_things"])
    for part in ("perfect routing", "perfect order"):
        assert rows[part]["PQ_things"] >= rows["as fused"]["PQ_things"] - 2


def test_the_error_budget_changes_one_part_at_a_time(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", min_stuff_confidence=1.0)  # nowhere is the semantic map that sure
    succeed(done.run("error_budget", params=params, out=tmp_path / "error_budget.csv"))
    rows = read_budget(tmp_path / "error_budget.csv")
    stuff = {name: row["PQ_stuff"] for name, row in rows.items()}
    assert stuff.pop("true semantics") > 0
    assert set(stuff.values()) == {0}


def test_the_error_budget_says_where_it_is_not_of_what_was_fused(done, tmp_path):
    (tmp_path / "calibration").mkdir()
    for name, fuse in (
        ("as fused", {}),
        ("by the heuristic", {"methods": {"fusion": "panoptic_head"}}),
        ("not calibrated", {"systems": ["e_ups"], "calibrated": True}),  # calibrate fits listed systems only
    ):
        params = write_params(tmp_path / "params.yaml", **fuse)
        out = tmp_path / f"{name}.csv"
        succeed(done.run("error_budget", params=params, calibration=tmp_path / "calibration", out=out))
        assert next(iter(read_budget(out))) == name
        assert list(read_budget(out).values()) == list(read_budget(tmp_path / "as fused.csv").values())


def test_a_preset_replaces_the_thresholds(done, tmp_path):
    by_name = write_params(tmp_path / "name.yaml", preset="mmdet")
    by_value = write_params(
        tmp_path / "value.yaml", min_score=0.6, max_overlap_frac=0.5, min_stuff_area_px=4096, max_nms_iou=0.5
    )
    for name, params in (("name", by_name), ("value", by_value)):
        succeed(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / name))
    assert bytes_below(tmp_path / "name") == bytes_below(tmp_path / "value")


def test_best_overall_takes_all_instances_from_the_better_end(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", instance_ensemble="best_overall")
    succeed(done.run("fuse", "--system", "fusion", params=params, out=tmp_path / "fused"))
    better = json.loads((done.routing / "routing.json").read_text())["better_overall"]
    ends = set(pq.read_table(tmp_path / "fused" / "segments.parquet")["end"].to_pylist())
    assert ends == {better, "e_ups+lwl_htc"}


@pytest.fixture(scope="module", params=["heuristic", "panoptic_head"])
def union(request, done):
    """A folder with the fusion of all ends' instances, by each method, and its params.yaml."""
    root = done.root / f"union_{request.param}"
    root.mkdir()
    params = write_params(root / "params.yaml", instance_ensemble="union", methods={"fusion": request.param})
    succeed(done.run("fuse", "--system", "fusion", params=params, out=root / "fused" / "fusion"))
    return root


def test_a_union_names_all_ends_of_what_it_joined(done, union):
    rows = pq.read_table(union / "fused" / "fusion" / "segments.parquet").to_pylist()
    things = {row["end"] for row in rows if row["score"] is not None}
    assert things == {*ENDS, "e_ups+lwl_htc"}
    rejected = pq.read_table(union / "fused" / "fusion" / "candidates.parquet").to_pylist()
    merged = [row for row in rejected if row["reason"] == "merged"]
    assert {row["end"] for row in merged} == set(ENDS)
    assert "routed_away" not in {row["reason"] for row in rejected}


def test_in_a_union_every_instance_is_a_segment_or_fell_and_every_two_merged_ones_made_another(done, union):
    predicted = sum(pq.ParquetFile(done.predictions / e / "val" / INSTANCES_FILE).metadata.num_rows for e in ENDS)
    tables = [pq.read_table(union / "fused" / "fusion" / f"{name}.parquet") for name in ("segments", "candidates")]
    merged = tables[1]["reason"].to_pylist().count("merged")
    listed = sum(len(table) - table["score"].null_count for table in tables)
    assert merged > 0
    assert listed == predicted + merged // len(ENDS)


def test_a_fallen_candidate_names_its_row_in_the_cache(done, union):
    """Under a union scores and positions are others than in the cache."""
    for folder, systems in ((done.fused, SYSTEMS), (union / "fused", ["fusion"])):
        for system in systems:
            rejected = pq.read_table(folder / system / "candidates.parquet").to_pylist()
            own = [row for row in rejected if row["score"] is not None and row["end"] in ENDS]
            assert {row["instance"] for row in rejected if row not in own} <= {None}
            named = [(row["end"], row["image_id"], row["instance"]) for row in own]
            assert len(set(named)) == len(named) > 0
            for row in own:
                found = done.instances(row["end"])[row["image_id"]][row["instance"]]
                assert (found["category_id"], found["area_px"]) == (row["category_id"], row["area_px"])
                assert row["score"] in (pytest.approx(found["score"]), pytest.approx(found["score"] / 2))


def test_a_union_needs_no_routing(done, union, tmp_path):
    places = {"params": union / "params.yaml", "routing": tmp_path / "nowhere", "out": tmp_path / "fused"}
    succeed(done.run("fuse", "--system", "fusion", **places))
    assert bytes_below(tmp_path / "fused") == bytes_below(union / "fused" / "fusion")


def test_a_union_is_calibrated_on_held_out(done, union, tmp_path):
    params, out = union / "params.yaml", tmp_path / "calibration" / "fusion.json"
    succeed(done.run("calibrate", "--system", "fusion", params=params, out=out))
    found = json.loads(out.read_text())["heldout_pq"]
    assert found["calibrated"] > found["plain"] > 0
    document = YAML(typ="safe", pure=True).load(params)
    document["fuse"]["calibrated"] = True
    calibrated = tmp_path / "params.yaml"
    YAML(typ="safe", pure=True).dump(document, calibrated)
    places = {"params": calibrated, "calibration": out.parent}
    succeed(done.run("fuse", "--system", "fusion", out=tmp_path / "fused", **places))
    assert bytes_below(tmp_path / "fused") != bytes_below(union / "fused" / "fusion")


def test_the_error_budget_of_a_union_starts_where_the_union_is(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", instance_ensemble="union")
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    shutil.rmtree(fused / "fusion")
    succeed(done.run("fuse", "--system", "fusion", params=params, out=fused / "fusion"))
    places = {"params": params, "fused": fused, "out": tmp_path / "metrics", "overlays": tmp_path / "overlays"}
    succeed(done.run("score", **places))
    succeed(done.run("error_budget", params=params, out=tmp_path / "error_budget.csv"))
    rows = read_budget(tmp_path / "error_budget.csv")
    metrics = json.loads((tmp_path / "metrics" / "panoptic.json").read_text())["fusion"]
    assert rows["as fused"]["PQ"] == pytest.approx(metrics["All"]["PQ"])
    assert rows["true instances"]["PQ_things"] == 100
    plain = tmp_path / "best_ap.csv"
    succeed(done.run("error_budget", out=plain))
    assert rows["perfect routing"] == read_budget(plain)["perfect routing"]


@pytest.mark.parametrize("instance_ensemble", ["best_of_class", "union"])
def test_a_system_alone_is_fused_to_the_same_bytes_as_beside_others(done, tmp_path, instance_ensemble):
    """Under a union the fusion reads mask probabilities, which the ends alone do not need."""
    params = write_params(tmp_path / "params.yaml", instance_ensemble=instance_ensemble)
    together = tmp_path / "together"
    succeed(done.run("fuse", params=params, out=together))
    assert {path.name for path in together.iterdir()} == set(SYSTEMS)
    for system in SYSTEMS:
        succeed(done.run("fuse", "--system", system, params=params, out=tmp_path / system))
        assert bytes_below(tmp_path / system) == bytes_below(together / system)


def test_log_probabilities_are_a_choice_of_the_fusion_and_change_no_end_alone(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", semantic_average="log_probabilities")
    for system in SYSTEMS:
        succeed(done.run("fuse", "--system", system, params=params, out=tmp_path / system))
        assert (bytes_below(tmp_path / system) == bytes_below(done.fused / system)) == (system != "fusion")


def test_the_panoptic_head_is_a_method_of_a_system(done, tmp_path):
    method = {"e_ups": "panoptic_head", "lwl_htc": "heuristic", "fusion": "heuristic"}
    params = write_params(tmp_path / "params.yaml", method=method)
    succeed(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / "e_ups"))
    assert bytes_below(tmp_path / "e_ups") != bytes_below(done.fused / "e_ups")
    succeed(done.run("fuse", "--system", "lwl_htc", params=params, out=tmp_path / "lwl_htc"))
    assert bytes_below(tmp_path / "lwl_htc") == bytes_below(done.fused / "lwl_htc")


def test_every_thing_category_is_routed_by_its_ap(done):
    rows = pq.read_table(done.routing / "class_ap.parquet").to_pylist()
    assert list(rows[0]) == ["category_id", "end", "AP", "AP50", "n_gt"]
    things = open_split(done.prepared, "heldout").categories.things
    assert len(rows) == len(things) * len(ENDS)
    routed = json.loads((done.routing / "routing.json").read_text())["categories"]
    assert sorted(row["category_id"] for row in routed) == sorted(category.category_id for category in things)
    ap = {(row["category_id"], row["end"]): row["AP"] for row in rows}
    reasons = {row["reason"] for row in routed}
    assert "better_ap" in reasons
    for row in routed:
        if row["reason"] == "better_ap":
            assert ap[row["category_id"], row["end"]] == max(ap[row["category_id"], end] for end in ENDS)


def test_every_route_says_by_how_much_it_leads(done):
    rows = pq.read_table(done.routing / "class_ap.parquet").to_pylist()
    ap = {(row["category_id"], row["end"]): row["AP"] for row in rows}
    for row in json.loads((done.routing / "routing.json").read_text())["categories"]:
        lead = row["lead"]
        assert {row["end"], lead["over"]} == set(ENDS)
        if lead["AP"] is not None:
            assert lead["AP"] == pytest.approx(
                ap[row["category_id"], row["end"]] - ap[row["category_id"], lead["over"]]
            )
            assert lead["low"] <= lead["high"]


def test_a_category_that_an_end_never_found_is_routed_to_the_other_and_says_by_how_much(done, tmp_path):
    routed = json.loads((done.routing / "routing.json").read_text())["categories"]
    row = next(row for row in routed if row["reason"] == "better_ap")
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    leave_out(cache_path(predictions, end=row["end"], split="heldout", file_name=INSTANCES_FILE), row["category_id"])
    succeed(done.run("evaluate_heldout", predictions=predictions, out=tmp_path / "routing"))
    found = {r["category_id"]: r for r in json.loads((tmp_path / "routing" / "routing.json").read_text())["categories"]}
    (other,) = set(ENDS) - {row["end"]}
    changed = found[row["category_id"]]
    assert (changed["end"], changed["reason"], changed["lead"]["over"]) == (other, "better_ap", row["end"])
    ap = pq.read_table(tmp_path / "routing" / "class_ap.parquet").to_pylist()
    ap = {r["end"]: r for r in ap if r["category_id"] == row["category_id"]}
    assert ap[row["end"]]["AP"] == 0
    assert ap[row["end"]]["n_gt"] == ap[other]["n_gt"] > 0
    assert changed["lead"]["AP"] == pytest.approx(ap[other]["AP"])


def leave_out(path, category_id):
    """Rewrites a cache without the instances of a category."""
    with InstancesReader(path) as reader:
        header, images = reader.header, list(reader)
    with InstancesWriter(path, header) as writer:
        for image in images:
            kept = np.flatnonzero(image.category_ids != category_id)
            writer.write(
                ImageInstances(
                    image_id=image.image_id,
                    height=image.height,
                    width=image.width,
                    category_ids=image.category_ids[kept],
                    scores=image.scores[kept],
                    boxes_xywh=image.boxes_xywh[kept],
                    rles=[image.rles[index] for index in kept],
                    mask_probs=image.mask_probs[kept] if image.mask_probs is not None else None,
                )
            )


def test_n_gt_counts_the_held_out_instances_that_are_no_crowd(done):
    dataset = open_split(done.prepared, "heldout")
    segments = [s for image in dataset.images for s in image.segments if not s.is_crowd]
    for row in pq.read_table(done.routing / "class_ap.parquet").to_pylist():
        assert row["n_gt"] == sum(segment.category_id == row["category_id"] for segment in segments)


def test_ap_is_against_annotated_instances_where_there_are_some(done, tmp_path):
    prepared = shutil.copytree(done.prepared, tmp_path / "prepared")
    dataset = open_split(prepared, "heldout")
    rows = []
    for image in dataset.images:
        ids = dataset.load_segment_ids(image)
        for segment in image.segments:
            if dataset.categories.by_id(segment.category_id).is_thing:
                # What is behind others, here the mask's right neighbours.
                mask = (ids == segment.segment_id) | (np.roll(ids, 3, axis=1) == segment.segment_id)
                rows.append((image.image_id, segment.category_id, len(rows) % 5 == 4, encode_masks(mask[None])[0]))
    kept = ((image.image_id, gathered([row for row in rows if row[0] == image.image_id])) for image in dataset.images)
    write_gt_instances(prepared / "heldout_instances.parquet", kept)
    manifest = json.loads((prepared / "dataset.json").read_text())
    manifest["splits"]["heldout"]["instances"] = "heldout_instances.parquet"
    (prepared / "dataset.json").write_text(json.dumps(manifest))
    succeed(done.run("evaluate_heldout", prepared=prepared, out=tmp_path / "routing"))
    found = pq.read_table(tmp_path / "routing" / "class_ap.parquet").to_pylist()
    before = pq.read_table(done.routing / "class_ap.parquet").to_pylist()
    assert [row["AP"] for row in found] != [row["AP"] for row in before]
    wanted = cocoeval_ap(dataset, rows, done.predictions)
    for row in found:
        assert row["AP"] == pytest.approx(wanted[row["end"]][row["category_id"]], nan_ok=True)


def gathered(rows):
    category_ids, crowds = np.array([row[1] for row in rows], np.int32), np.array([row[2] for row in rows], bool)
    return GtInstances(category_ids, [row[3] for row in rows], crowds)


def cocoeval_ap(dataset, rows, predictions):
    """End → category → mask AP of pycocotools, against (image, category, crowd, RLE)."""
    sizes = {image.image_id: [image.height, image.width] for image in dataset.images}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image_id, "height": hw[0], "width": hw[1]} for image_id, hw in sizes.items()],
        "categories": [{"id": category.category_id} for category in dataset.categories.things],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": int(crowd), "area": 1}
            | {"segmentation": {"size": sizes[image_id], "counts": rle}}
            for number, (image_id, category_id, crowd, rle) in enumerate(rows, start=1)
        ],
    }
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        for end in ENDS:
            path = cache_path(predictions, end=end, split="heldout", file_name=INSTANCES_FILE)
            with InstancesReader(path) as reader:
                results = [
                    {"image_id": one.image_id, "category_id": int(category_id), "score": float(score)}
                    | {"segmentation": {"size": sizes[one.image_id], "counts": rle}}
                    for one in reader
                    for category_id, score, rle in zip(one.category_ids, one.scores, one.rles, strict=True)
                ]
            evaluation = COCOeval(truth, truth.loadRes(results), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            precision = evaluation.eval["precision"][:, :, :, 0, 2]
            mean = {key: precision[:, :, index].mean() for index, key in enumerate(evaluation.params.catIds)}
            found[end] = {key: value if value >= 0 else np.nan for key, value in mean.items()}
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_fused_maps_are_whole_and_their_tables_agree(done, system):
    folder = done.fused / system
    truth = open_split(done.prepared, "val")
    fused = read_panoptic(folder / "panoptic.json", images_dir=truth.images_dir, panoptic_dir=folder / "panoptic")
    assert [image.image_id for image in fused.images] == [image.image_id for image in truth.images]
    rows = pq.read_table(folder / "segments.parquet").to_pylist()
    described = [(i.image_id, s.segment_id, s.category_id, s.area_px) for i in fused.images for s in i.segments]
    assert [(r["image_id"], r["segment_id"], r["category_id"], r["area_px"]) for r in rows] == described
    for image in fused.images:
        ids = fused.load_segment_ids(image)  # checks pixels against segments both ways
        assert sorted(set(np.unique(ids)) - {0}) == list(range(1, len(image.segments) + 1))
    ends = {row["end"] for row in rows}
    assert ends == ({*ENDS, "e_ups+lwl_htc"} if system == "fusion" else {system})
    for row in rows:
        assert (row["score"] is None) == (not truth.categories.by_id(row["category_id"]).is_thing)


def test_every_instance_is_either_a_segment_or_a_fallen_candidate(done):
    for system in SYSTEMS:
        predicted = sum(
            pq.ParquetFile(done.predictions / end / "val" / INSTANCES_FILE).metadata.num_rows
            for end in ENDS
            if system in (end, "fusion")
        )
        tables = [pq.read_table(done.fused / system / f"{name}.parquet") for name in ("segments", "candidates")]
        assert sum(len(table) - table["score"].null_count for table in tables) == predicted


def test_candidates_say_why_they_fell(done):
    reasons = set(pq.read_table(done.fused / "fusion" / "candidates.parquet")["reason"].to_pylist())
    assert {"routed_away", "low_score", "overlap_frac"} <= reasons
    alone = set(pq.read_table(done.fused / "e_ups" / "candidates.parquet")["reason"].to_pylist())
    assert "routed_away" not in alone


def test_routed_categories_come_from_their_end_only(done):
    routed = json.loads((done.routing / "routing.json").read_text())["categories"]
    end_of = {row["category_id"]: row["end"] for row in routed}
    for row in pq.read_table(done.fused / "fusion" / "segments.parquet").to_pylist():
        assert row["end"] == end_of.get(row["category_id"], "e_ups+lwl_htc")


def test_the_metrics_are_panopticapis(done, panopticapi_pq, tmp_path):
    truth = open_split(done.prepared, "val")
    metrics = json.loads((done.metrics / "panoptic.json").read_text())
    assert list(metrics) == list(SYSTEMS)
    for system in SYSTEMS:
        expected = panopticapi_pq(
            str(truth.annotations),
            str(done.fused / system / "panoptic.json"),
            str(truth.panoptic_dir),
            str(done.fused / system / "panoptic"),
        )
        for group in ("All", "Things", "Stuff"):
            found = metrics[system][group]
            assert found == pytest.approx({name: 100 * expected[group][name.lower()] for name in found}, abs=1e-9)
    assert 0 < metrics["fusion"]["All"]["PQ"] < 100


def test_the_metrics_are_hotcocos(done, capsys):
    panoptic = pytest.importorskip("hotcoco.panoptic")
    truth = open_split(done.prepared, "val")
    metrics = json.loads((done.metrics / "panoptic.json").read_text())
    for system in SYSTEMS:
        folder = done.fused / system
        places = (truth.annotations, folder / "panoptic.json", truth.panoptic_dir, folder / "panoptic")
        expected = panoptic.pq_compute(*map(str, places))
        for group in ("All", "Things", "Stuff"):
            assert metrics[system][group]["PQ"] == pytest.approx(100 * expected[group]["pq"], abs=1e-9)


def test_per_class_rows_are_those_of_the_metrics(done):
    with (done.metrics / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["category", "system", "PQ", "SQ", "RQ", "tp", "fp", "fn"]
    metrics = json.loads((done.metrics / "panoptic.json").read_text())
    for system in SYSTEMS:
        values = [float(row["PQ"]) for row in rows if row["system"] == system]
        assert np.mean(values) == pytest.approx(metrics[system]["All"]["PQ"])


def test_pq_can_be_computed_again_from_the_images(done):
    rows = pq.read_table(done.metrics / "per_image.parquet").to_pydict()
    keep = np.array(rows["system"]) == "fusion"
    columns = [np.array(rows[name])[keep] for name in ("category_id", "tp", "fp", "fn", "iou_sum")]
    of_class = class_quality(total_counts([MatchCounts(*columns)]))
    metrics = json.loads((done.metrics / "panoptic.json").read_text())
    assert 100 * group_quality(of_class, list(of_class)).pq == pytest.approx(metrics["fusion"]["All"]["PQ"])


def test_every_pq_has_an_interval_and_so_has_every_difference(done):
    with (done.metrics / "intervals.csv").open() as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((done.metrics / "panoptic.json").read_text())
    assert len(rows) == 3 * (len(SYSTEMS) + 3)
    for row in rows:
        pq_of = {name: metrics[name][row["group"]]["PQ"] for name in SYSTEMS}
        expected = pq_of[row["system"]] - (pq_of[row["minus"]] if row["minus"] else 0)
        assert float(row["PQ"]) == pytest.approx(expected)
        assert float(row["low"]) <= float(row["PQ"]) + 10
        assert float(row["low"]) < float(row["high"])


def test_between_two_equal_systems_there_is_no_doubt(done, tmp_path):
    """Whatever images are drawn, both systems are scored on the same ones."""
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    shutil.rmtree(fused / "lwl_htc")
    shutil.copytree(fused / "e_ups", fused / "lwl_htc")
    places = {"fused": fused, "out": tmp_path / "metrics", "overlays": tmp_path / "overlays"}
    succeed(done.run("score", **places))
    with (tmp_path / "metrics" / "intervals.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if {row["system"], row["minus"]} == set(ENDS)]
    assert [[float(row[name]) for name in ("PQ", "low", "high")] for row in rows] == [[0, 0, 0]] * 3


def test_between_two_equal_ends_there_is_no_lead(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    one, other = (cache_path(predictions, end=end, split="heldout", file_name=INSTANCES_FILE) for end in ENDS)
    with InstancesReader(one) as reader, InstancesWriter(other, replace(reader.header, end="lwl_htc")) as writer:
        for image in reader:
            writer.write(image)
    succeed(done.run("evaluate_heldout", predictions=predictions, out=tmp_path / "routing"))
    leads = [row["lead"] for row in json.loads((tmp_path / "routing" / "routing.json").read_text())["categories"]]
    measured = [[lead[name] for name in ("AP", "low", "high")] for lead in leads if lead["AP"] is not None]
    assert measured == [[0, 0, 0]] * len(measured) != []


def test_the_comparison_of_methods_gives_sizes_and_intervals_of_differences(done):
    sys.path.insert(0, str(PROJECT))
    from benchmarks.fusion_methods import bytes_an_image, with_interval

    truth = open_split(done.prepared, "val")
    cache, maps, results = bytes_an_image(done.prepared, done.predictions, truth, list(ENDS)).values()
    files = [path for end in ENDS for path in (done.predictions / end / "val").iterdir()]
    assert cache == sum(path.stat().st_size for path in files) / len(truth.images)
    assert maps == 2 * len(ENDS) * len(truth.categories) * 96 * 128
    rles = [len(row["rle"]) for end in ENDS for rows in done.instances(end).values() for row in rows]
    assert sum(rles) < results * len(truth.images) < sum(rles) + 250 * len(rles)

    one = np.array([1])
    images = [MatchCounts(one, one, one, one, np.array([iou])) for iou in (0.6, 0.75, 0.9)]
    draws = draw_images(3, samples=50, seed=0)
    assert with_interval(images, draws, [1]).startswith("37.5 (")
    assert with_interval(images, draws, [1], minus=images) == "+0.0 (+0.0 to +0.0)"


def test_the_sizes_of_things_part_their_segments(done):
    things = {category.category_id for category in open_split(done.prepared, "val").categories.things}
    per_image = pq.read_table(done.metrics / "per_image.parquet").to_pylist()
    with (done.metrics / "per_size.csv").open() as file:
        rows = list(csv.DictReader(file))
    for system in SYSTEMS:
        for count in ("tp", "fp", "fn"):
            expected = sum(r[count] for r in per_image if r["system"] == system and r["category_id"] in things)
            assert sum(int(row[count]) for row in rows if row["system"] == system) == expected


def test_the_table_names_every_system(done):
    for system in SYSTEMS:
        assert system in done.printed
    assert "PQTh" in done.printed


def test_a_picture_shows_photo_truth_and_every_system(done):
    pictures = sorted(done.overlays.iterdir())
    truth = open_split(done.prepared, "val")
    assert [path.name for path in pictures] == [f"{image.image_id:012d}.png" for image in truth.images[:2]]
    picture = cv2.imread(str(pictures[0]))
    panels = 2 + len(SYSTEMS)
    assert picture.shape[1] >= panels * 2 * truth.images[0].width  # small images are enlarged


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_no_byte_of_a_union(done, union, tmp_path, workers):
    document = YAML(typ="safe", pure=True).load(union / "params.yaml")
    document["runtime"]["workers"] = workers
    params = tmp_path / "params.yaml"
    YAML(typ="safe", pure=True).dump(document, params)
    succeed(done.run("fuse", "--system", "fusion", params=params, out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused") == bytes_below(union / "fused" / "fusion")


HANG = """
import os, pathlib, runpy, sys, time
from antvisionps.predictions.semantic import SemanticReader

marker, image_id = pathlib.Path(sys.argv[1]), int(sys.argv[2])
read = SemanticReader.read

def read_or_hang(reader, wanted):
    if wanted == image_id:
        marker.touch()
        time.sleep(600)
    return read(reader, wanted)

SemanticReader.read = read_or_hang
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a stage's script, which never gets over one image."""


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_killed_and_begun_again_fuse_gives_the_same_bytes(done, tmp_path, workers):
    params = write_params(tmp_path / "params.yaml", workers=workers)
    out, marker = tmp_path / "fused" / "fusion", tmp_path / "hangs"
    last = open_split(done.prepared, "val").images[-1].image_id
    command = done.command("fuse", "--system", "fusion", params=params, out=out)
    hanging = subprocess.Popen(
        [sys.executable, "-c", HANG, str(marker), str(last), *command[1:]], stdout=subprocess.PIPE, cwd=PROJECT
    )
    while not marker.exists() and hanging.poll() is None:
        time.sleep(0.02)
    hanging.kill()
    hanging.communicate(timeout=60)  # its worker processes hold the pipe too: they end with it
    assert hanging.returncode == -signal.SIGKILL
    (unfinished,) = out.parent.iterdir()
    assert unfinished != out
    (unfinished / "panoptic" / "000000999999.png").touch()  # of images that are gone when it begins again
    succeed(subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT))
    assert list(out.parent.iterdir()) == [out]
    assert bytes_below(out) == bytes_below(done.fused / "fusion")


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_no_byte(done, tmp_path, workers):
    params = write_params(tmp_path / "params.yaml", workers=workers)
    succeed(done.run("evaluate_heldout", params=params, out=tmp_path / "routing"))
    succeed(done.run("fuse", "--system", "fusion", params=params, out=tmp_path / "fused"))
    succeed(done.run("score", params=params, out=tmp_path / "metrics", overlays=tmp_path / "overlays"))
    assert bytes_below(tmp_path / "routing") == bytes_below(done.routing)
    assert bytes_below(tmp_path / "fused") == bytes_below(done.fused / "fusion")
    assert bytes_below(tmp_path / "metrics") == bytes_below(done.metrics)
    assert bytes_below(tmp_path / "overlays") == bytes_below(done.overlays)


def test_a_threshold_changes_the_maps(done, tmp_path):
    params = write_params(tmp_path / "params.yaml", min_score=0.9)
    succeed(done.run("fuse", "--system", "e_ups", params=params, out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused") != bytes_below(done.fused / "e_ups")


def test_an_end_may_have_semantics_only(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    for split in ("heldout", "val"):
        (predictions / "lwl_htc" / split / INSTANCES_FILE).unlink()
    places = {"predictions": predictions, "routing": tmp_path / "routing"}
    succeed(done.run("evaluate_heldout", predictions=predictions, out=tmp_path / "routing"))
    routed = json.loads((tmp_path / "routing" / "routing.json").read_text())["categories"]
    assert {(row["end"], row["reason"]) for row in routed} == {("e_ups", "only_end")}
    succeed(done.run("fuse", "--system", "fusion", **places, out=tmp_path / "fusion"))
    ends = set(pq.read_table(tmp_path / "fusion" / "segments.parquet")["end"].to_pylist())
    assert ends == {"e_ups", "e_ups+lwl_htc"}
    succeed(done.run("calibrate", "--system", "fusion", **places, out=tmp_path / "fusion.json"))
    succeed(done.run("error_budget", **places, out=tmp_path / "budget.csv"))
    for stage, out in (("fuse", "alone"), ("calibrate", "alone.json")):
        line = fail(done.run(stage, "--system", "lwl_htc", **places, out=tmp_path / out))
        assert "none of the ends ['lwl_htc'] has an instances.parquet" in line
        assert not (tmp_path / out).exists()


def test_semantics_of_a_third_end_count_with_their_weight(done, tmp_path):
    """Without instances and limits, the fused map is the argmax of the weighted mean where that is stuff."""
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    val = open_split(done.prepared, "val")
    header = CacheHeader("hrnet_aspp", "val", dataset_fingerprint(done.prepared), val.categories, "weights")
    rng = np.random.default_rng(6)
    with SemanticWriter(predictions / "hrnet_aspp" / "val" / SEMANTIC_FILE, header) as semantics:
        for image in val.images:
            semantics.write(noisy_semantics(val, image, 4.0, rng))
    weights = {"e_ups": 1.0, "lwl_htc": 0.0, "hrnet_aspp": 3.0}
    rules = {"min_score": 1.0, "min_stuff_area_px": 0, "semantic_weights": weights}
    params = write_params(tmp_path / "params.yaml", **rules)
    switch_hrnet_aspp_on(params)
    succeed(done.run("fuse", "--system", "fusion", params=params, predictions=predictions, out=tmp_path / "fusion"))

    fused = read_panoptic(
        tmp_path / "fusion" / "panoptic.json", images_dir=val.images_dir, panoptic_dir=tmp_path / "fusion" / "panoptic"
    )
    caches = SplitCaches(predictions, "val", dataset_fingerprint(done.prepared), val)
    readers = caches.open_semantics(["e_ups", "hrnet_aspp"])
    classes_of_ends = []
    for image in fused.images:
        planes = [full_size(reader.read(image.image_id), val.categories) for reader in readers.values()]
        classes = np.average(planes, axis=0, weights=[1, 3]).argmax(axis=0)
        classes_of_ends.append((classes, planes[0].argmax(axis=0)))
        classes[classes < len(val.categories.things)] = 255
        got = class_index_map(fused.load_segment_ids(image), image, val.categories)
        assert (got != classes).mean() < 1e-3  # equal sums may be rounded to either side
    assert any((both != alone).any() for both, alone in classes_of_ends)


def full_size(image, categories):
    """(C, H, W) planes stretched to the image, class by class."""
    planes = np.zeros((len(categories), image.height, image.width))
    for category_id, plane in zip(image.category_ids, image.planes, strict=True):
        stretched = cv2.resize(plane.astype(np.float64), (image.width, image.height), interpolation=cv2.INTER_LINEAR)
        planes[categories.class_index(category_id)] = stretched
    return planes


def switch_hrnet_aspp_on(params):
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load(params)
    document["ends"].append("hrnet_aspp")
    document["predict"]["separate_ends"].append("hrnet_aspp")
    document["train_hrnet_aspp"]["members"] = ["base"]
    with params.open("w") as file:
        yaml.dump(document, file)


def test_an_end_may_have_instances_only_but_not_all_ends(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    (predictions / "lwl_htc" / "val" / SEMANTIC_FILE).unlink()
    succeed(done.run("fuse", "--system", "fusion", predictions=predictions, out=tmp_path / "fusion"))
    line = fail(done.run("fuse", "--system", "lwl_htc", predictions=predictions, out=tmp_path / "alone"))
    assert "none of the ends ['lwl_htc'] has a semantic.parquet" in line
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_cache_is_one_line_and_leaves_nothing(done, tmp_path, workers):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    cache = predictions / "e_ups" / "val" / SEMANTIC_FILE
    cache.write_bytes(cache.read_bytes()[:-100])
    params = write_params(tmp_path / "params.yaml", workers=workers)
    out = tmp_path / "out" / "e_ups"
    line = fail(done.run("fuse", "--system", "e_ups", params=params, predictions=predictions, out=out))
    assert str(cache) in line
    assert "not a whole Parquet file" in line
    assert list(out.parent.iterdir()) == []


def spoil_best_masks(path):
    """Gives each image's best instance the mask of an image that is a row taller; returns the first image of any."""
    table = pq.read_table(path)
    image_ids, height, width = table["image_id"].to_pylist(), table["height"][0].as_py(), table["width"][0].as_py()
    taller = encode_masks(np.ones((1, height + 1, width), bool))[0]
    is_first = [True, *(one != other for one, other in itertools.pairwise(image_ids))]
    rles = [taller if first else rle for first, rle in zip(is_first, table["rle"].to_pylist(), strict=True)]
    column = table.schema.get_field_index("rle")
    changed = table.set_column(column, table.schema.field(column), [rles])
    metadata = pq.ParquetFile(path).metadata.metadata
    metadata.pop(b"ARROW:schema")
    pq.write_table(changed.replace_schema_metadata(metadata), path)
    return image_ids[0]


@pytest.mark.parametrize(
    ("split", "arguments", "out"),
    [
        ("heldout", ["evaluate_heldout"], "routing"),
        ("heldout", ["calibrate", "--system", "e_ups"], "e_ups.json"),
        ("val", ["fuse", "--system", "e_ups"], "e_ups"),
        ("val", ["error_budget"], "error_budget.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_masks_of_another_size_are_told_by_file_image_and_remedy(done, tmp_path, split, arguments, out):
    """pycocotools never comes back from some of them."""
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    path = cache_path(predictions, end="e_ups", split=split, file_name=INSTANCES_FILE)
    image_id = spoil_best_masks(path)
    line = fail(done.run(*arguments, predictions=predictions, out=tmp_path / out))
    assert re.fullmatch(
        rf"error: {re.escape(str(path))}: image {image_id} of 96 x 128 px: mask 0: RLE of another size: .*dvc repro.*",
        line,
    )
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(
    ("arguments", "places", "message"),
    [
        (["fuse", "--system", "hrnet"], {"out": "x"}, "--system hrnet: expected fusion or one of ends"),
        (["fuse", "--system", "fusion"], {"out": "x", "routing": "nowhere"}, "no readable routing table"),
        (["fuse", "--system", "e_ups"], {"out": "x", "predictions": "nowhere"}, "neither instances.parquet nor"),
        (["evaluate_heldout"], {"out": "x", "predictions": "nowhere"}, "neither instances.parquet nor"),
        (["score"], {"out": "x", "fused": "nowhere"}, "no readable COCO panoptic JSON"),
    ],
)
def test_what_is_missing_is_named(done, tmp_path, arguments, places, message):
    found = fail(done.run(*arguments, **{name: tmp_path / place for name, place in places.items()}))
    assert message in found
    assert not (tmp_path / "x").exists()


def test_score_refuses_maps_of_other_images(done, tmp_path):
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    path = fused / "e_ups" / "panoptic.json"
    document = json.loads(path.read_text())
    document["images"], document["annotations"] = document["images"][1:], document["annotations"][1:]
    path.write_text(json.dumps(document))
    line = fail(done.run("score", fused=fused, out=tmp_path / "metrics", overlays=tmp_path / "overlays"))
    assert "expected the images of" in line


def test_score_refuses_runs_that_are_missing_or_of_another_map(done, tmp_path):
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    places = {"fused": fused, "out": tmp_path / "metrics", "overlays": tmp_path / "overlays"}
    (fused / "fusion" / "runs.parquet").rename(tmp_path / "moved.parquet")
    assert "no such file; run `dvc repro fuse`" in fail(done.run("score", **places))
    shutil.copy(fused / "e_ups" / "runs.parquet", fused / "fusion")
    assert "other segments than its annotation lists; run `dvc repro fuse`" in fail(done.run("score", **places))
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize("stage", ["fuse", "score", "evaluate_heldout", "calibrate", "error_budget"])
def test_the_stages_after_predict_start_fast(stage):
    script = f"""
import runpy, sys
runpy.run_path("stages/{stage}.py", run_name="imported")
slow = {{"torch", "torchvision", "matplotlib", "pandas", "scipy", "mmdet"}} & set(sys.modules)
assert not slow, slow
"""
    succeed(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PROJECT))


def test_the_report_counts_what_score_counts_and_looks_the_same_from_any_number_of_workers(done, tmp_path):
    metrics = shutil.copytree(done.metrics, tmp_path / "metrics")
    succeed(done.run("error_budget", out=metrics / "error_budget.csv"))
    one, two = tmp_path / "one", tmp_path / "two"
    succeed(done.run("report", metrics=metrics, out=one))
    succeed(done.run("report", metrics=metrics, out=two, params=write_params(tmp_path / "params.yaml", workers=2)))
    assert bytes_below(one) == bytes_below(two)

    packed = re.search(r'"(.+)"', (one / "data" / "overview.js").read_text())[1]
    overview = json.loads(zlib.decompress(base64.b64decode(packed)))
    dataset = open_split(done.prepared, "val")
    counted = {}
    for image_id, _, _, _, tallies in overview["images"]:
        for system, tally in zip(overview["systems"], tallies, strict=True):
            for class_index, _, side, outcome, number, iou_sum in tally:
                key = system, image_id, dataset.categories.categories[class_index].category_id
                row = counted.setdefault(key, [0, 0, 0, 0.0])
                column = 0 if overview["outcomes"][outcome] == "matched" else 1 + (side == 0)
                row[column] += number
                row[3] += iou_sum
    expected = {
        (row["system"], row["image_id"], row["category_id"]): [row["tp"], row["fp"], row["fn"], row["iou_sum"]]
        for row in pq.read_table(done.metrics / "per_image.parquet").to_pylist()
        if row["tp"] + row["fp"] + row["fn"]
    }
    assert counted.keys() == expected.keys()
    assert all(counted[key] == pytest.approx(row, abs=1e-3) for key, row in expected.items())


def test_the_report_begins_with_the_lowest_score_that_the_last_system_takes(done, calibrated, tmp_path):
    metrics = shutil.copytree(done.metrics, tmp_path / "metrics")
    (metrics / "error_budget.csv").write_text("perfect,PQ,PQ_things,PQ_stuff\nas fused,1.0,1.0,1.0\n")
    fitted = json.loads((calibrated / "fusion.json").read_text())
    thing = open_split(done.prepared, "val").categories.things[0].name
    for name, fuse, expected in (
        ("preset", {"preset": "mmdet"}, 0.6),
        ("class", {"preset": "mmdet", "min_scores": {thing: 0.2}}, 0.2),
        ("calibrated", {"calibrated": True}, min([fitted["min_score"], *fitted["min_scores"].values()])),
    ):
        params = write_params(tmp_path / "params.yaml", **fuse)
        out = tmp_path / name
        succeed(done.run("report", metrics=metrics, params=params, calibration=calibrated, out=out))
        packed = re.search(r'"(.+)"', (out / "data" / "overview.js").read_text())[1]
        assert json.loads(zlib.decompress(base64.b64decode(packed)))["min_score"] == expected


def test_the_report_asks_for_the_stage_that_it_misses(done, tmp_path):
    message = fail(done.run("report", out=tmp_path / "report"))
    assert "error_budget.csv" in message
    assert "dvc repro score" in message
    assert not (tmp_path / "report").exists()
