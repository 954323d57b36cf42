"""Method auto through the stages: what calibrate fits on held-out images, and that fuse takes it."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from antvisionps.evaluation.panoptic_quality import MatchCounts
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.pipeline.calibrate_auto import choices_of_ends, choose_ends, fold_images
from antvisionps.predictions.schema import CacheIdentity
from tests.interchange.guide import names
from tests.pipeline.workspace import ENDS, SYSTEMS, bytes_below, change_params, fail, succeed, write_params


def test_each_fold_is_unseen_by_one_fit_and_one_image_has_none():
    everything, *folds = fold_images(7)
    assert everything.all()
    assert (~np.array(folds)).sum(axis=0).tolist() == [1] * 7
    assert len(folds) == 5
    assert [len(fold_images(images)) for images in (1, 2, 4)] == [1, 3, 5]


def counts(*tp_of_images):
    """Of images with two true segments of category 1 each, of which so many are found perfectly."""
    return [MatchCounts(*(np.array([n]) for n in (1, tp, 0, 2 - tp)), np.array([float(tp)])) for tp in tp_of_images]


@pytest.mark.parametrize(
    ("first", "second", "third", "taken"),
    [
        ((1, 1, 1, 1), (2, 2, 2, 2), (1, 1, 1, 1), 1),  # twice as good on every image
        ((1, 1, 1, 1), (2, 2, 1, 2), (2, 2, 2, 2), 2),  # the best of those that lead
        ((1, 1, 1, 1), (0, 2, 1, 2), (1, 1, 1, 1), 0),  # a lead within the standard error
        ((1, 2, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), 0),
    ],
)
def test_all_ends_are_taken_unless_another_choice_leads_by_more_than_the_standard_error(first, second, third, taken):
    choices = [["a", "b"], ["a"], ["b"]]
    rows, found = choose_ends(choices, [counts(*first), counts(*second), counts(*third)], [1])
    assert found == taken
    assert rows[0].lead is None
    assert rows[1].lead == pytest.approx(rows[1].heldout_pq - rows[0].heldout_pq)


def test_one_image_tells_nothing_so_all_ends_are_taken():
    rows, taken = choose_ends([["a", "b"], ["a"]], [[], []], [1])
    assert (taken, rows[1].heldout_pq, rows[1].lead) == (0, None, None)


def test_every_choice_is_measured_and_printed(auto):
    printed = (auto / "calibrate.txt").read_text()
    for system in SYSTEMS:
        found = json.loads((auto / "calibration" / f"{system}.json").read_text())
        *choices, by_head = [choice["ends"] for choice in found["choices"]]
        assert choices == ([sorted(ENDS), *([end] for end in sorted(ENDS))] if system == "fusion" else [[system]])
        assert found["ends"] in choices
        assert by_head == found["ends"]
        assert [choice["paste_by"] for choice in found["choices"]] == ["heuristic"] * len(choices) + ["panoptic_head"]
        assert list(found["semantic_weights"]) == found["ends"]
        assert sum(found["semantic_weights"].values()) == pytest.approx(1)
        for choice in found["choices"]:
            assert 0 < choice["heldout_pq"] < 1
            by = f"{system}, {'+'.join(choice['ends'])} by the {choice['paste_by'].replace('_', ' ')}"
            assert f"{by}: cross-validated held-out PQ in percent" in printed


def test_segments_have_probabilities_that_reach_the_least_of_their_category(auto):
    for system in SYSTEMS:
        found = json.loads((auto / "calibration" / f"{system}.json").read_text())
        least = {int(key): value for key, value in found["acceptance"]["min_probabilities"].items()}
        rows = pq.read_table(auto / "fused" / system / "segments.parquet").to_pylist()
        assert rows
        for row in rows:
            assert 1 >= row["probability"] >= least[row["category_id"]] - 1e-6
            assert row["score"] in (None, row["probability"])


def test_it_is_better_than_a_threshold_of_a_half(done, auto, tmp_path):
    plain = json.loads((done.metrics / "panoptic.json").read_text())
    found = done.score(tmp_path / "scored", auto / "fused")
    assert found["fusion"]["All"]["PQ"] > plain["fusion"]["All"]["PQ"]
    assert found["fusion"]["All"]["PQ"] >= max(found[end]["All"]["PQ"] for end in ENDS)


def test_the_overlap_of_section_fuse_counts(done, auto, tmp_path):
    params = write_params(tmp_path / "params.yaml", method="auto", systems=["fusion"], max_overlap_frac=0.0)
    places = {"params": params, "calibration": auto / "calibration", "out": tmp_path / "fused"}
    succeed(done.run("fuse", **places))
    folders = (auto / "fused" / "fusion", tmp_path / "fused" / "fusion")
    reasons = [pq.read_table(folder / "candidates.parquet")["reason"].to_pylist() for folder in folders]
    assert reasons[0].count("overlap_frac") < reasons[1].count("overlap_frac")


def test_three_ends_are_tried_together_without_one_and_alone():
    caches = SimpleNamespace(open_instances=lambda ends: {"a": None, "b": None}, open_semantics=dict.fromkeys)
    found = choices_of_ends(["c", "b", "a"], caches)
    assert found == [["a", "b", "c"], ["b", "c"], ["a", "c"], ["a", "b"], ["a"], ["b"]]


def test_two_processes_and_the_ends_in_another_order_find_and_fuse_the_same(done, auto, tmp_path):
    written = write_params(tmp_path / "written.yaml", workers=2, method="auto", systems=["fusion"])
    params = change_params(written, tmp_path / "params.yaml", ends=list(reversed(ENDS)))
    ran = succeed(done.run("calibrate", params=params, out=tmp_path / "calibration"))
    assert "calibrate fusion: 100%" in ran.stderr
    assert bytes_below(tmp_path / "calibration") == {
        Path("fusion.json"): (auto / "calibration" / "fusion.json").read_bytes()
    }
    succeed(done.run("fuse", params=params, calibration=tmp_path / "calibration", out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused" / "fusion") == bytes_below(auto / "fused" / "fusion")


def mask2former_of(dataset, image, rng):
    """What Mask2Former's post-processing of Transformers makes of queries near the truth: of each segment one, moved a
    little, and some that are sure of nothing."""
    from transformers import Mask2FormerImageProcessor

    ids, categories = dataset.load_segment_ids(image), dataset.categories
    masks = [np.roll(ids == segment.segment_id, rng.integers(-2, 3, 2), (0, 1)) for segment in image.segments]
    labels = [categories.class_index(segment.category_id) for segment in image.segments]
    classes = rng.normal(0, 1, (len(labels) + 3, len(categories) + 1))
    classes[np.arange(len(labels)), labels] += 8
    masks += [rng.random(ids.shape) < 0.1] * 3
    outputs = SimpleNamespace(
        class_queries_logits=torch.tensor(classes)[None].float(),
        masks_queries_logits=torch.tensor(np.where(masks, 9.0, -9.0))[None].float(),
    )
    stuff = {categories.class_index(category.category_id) for category in categories.stuff}
    process = Mask2FormerImageProcessor().post_process_panoptic_segmentation
    return process(outputs, target_sizes=[ids.shape], label_ids_to_fuse=stuff)[0]


def import_mask2former(prepared, predictions, folder):
    """Panoptic results without probabilities in place of what the end predicted of either split."""
    rng = np.random.default_rng(8)
    for split in ("heldout", "val"):
        dataset, files, rows = open_split(prepared, split), folder / split, []
        (files / "panoptic").mkdir(parents=True)
        for image in dataset.images:
            result = mask2former_of(dataset, image, rng)
            np.save(files / "panoptic" / f"{image.image_id}.npy", result["segmentation"].numpy())
            file_name = f"{image.image_id}.npy"
            rows.append({"image_id": image.image_id, "file_name": file_name, "segments_info": result["segments_info"]})
        (files / "panoptic.json").write_text(json.dumps(rows))
        (files / "labels.json").write_text(json.dumps(names(dataset)))
        identity = CacheIdentity("e_ups", split, dataset_fingerprint(prepared), dataset.categories)
        shutil.rmtree(predictions / "e_ups" / split)
        import_end(files, predictions / "e_ups" / split, dataset=dataset, identity=identity)


def test_panoptic_results_of_transformers_are_fused_with_a_native_end_without_a_special_setting(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    import_mask2former(done.prepared, predictions, tmp_path / "files")
    params = write_params(tmp_path / "params.yaml", method="auto")
    places = {"params": params, "predictions": predictions}
    succeed(done.run("calibrate", **places, out=tmp_path / "calibration"))
    places["calibration"] = tmp_path / "calibration"
    succeed(done.run("fuse", **places, out=tmp_path / "fused"))
    ends = pq.read_table(tmp_path / "fused" / "fusion" / "segments.parquet")["end"].to_pylist()
    assert "e_ups+lwl_htc" in ends
    found = json.loads((tmp_path / "calibration" / "fusion.json").read_text())
    assert {choice["paste_by"] for choice in found["choices"]} == {"heuristic"}  # the head needs mask probabilities
    places |= {"fused": tmp_path / "fused", "out": tmp_path / "metrics", "scores": tmp_path / "scores"}
    succeed(done.run("score", "--no-error-budget", **places))
    scored = json.loads((tmp_path / "metrics" / "panoptic.json").read_text())
    assert scored["fusion"]["All"]["PQ"] > max(scored[end]["All"]["PQ"] for end in ENDS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found.update(ends=["lwl"]), r"ends \['lwl'\] are none of its choices"),
        (lambda found: found.update(semantic_weights={"lwl": 1.0}), "semantic_weights are not of ends"),
        (lambda found: found.update(choices=[]), "fitted for other ends than"),
        (lambda found: found["acceptance"]["things"].update(means=[1.0]), "things is not of . features"),
        (lambda found: found["acceptance"]["min_probabilities"].pop("9"), "min_probabilities is of other categories"),
        (lambda found: found["acceptance"]["stuff"].update(bias_of_category={}), "stuff is of other categories"),
        (lambda found: found["acceptance"]["stuff"].update(deviations=[1.0, 0.0]), "deviations are not all positive"),
        (lambda found: found.pop("acceptance"), "acceptance: Field required"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_in_one_line(done, auto, tmp_path, change, problem):
    shutil.copytree(auto / "calibration", tmp_path / "calibration")
    path = tmp_path / "calibration" / "fusion.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    places = {"params": auto / "params.yaml", "calibration": tmp_path / "calibration", "out": tmp_path / "fused"}
    line = fail(done.run("fuse", **places))
    assert str(path) in line
    assert line.endswith("; run `dvc repro calibrate`")
    assert re.search(problem, line)


def test_what_was_calibrated_for_another_method_is_refused(done, auto, tmp_path):
    params = write_params(tmp_path / "params.yaml", method="auto")
    assert "not the calibration of method auto" in fail(done.run("fuse", params=params, out=tmp_path / "fused"))
    plain = write_params(tmp_path / "plain.yaml", calibrated=True)
    line = fail(done.run("fuse", params=plain, calibration=auto / "calibration", out=tmp_path / "fused"))
    assert line.endswith("run `dvc repro calibrate`")
