"""Fusing without a project gives the maps that the stages give."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import antvisionps
from antvisionps.cli import main as cli
from antvisionps.core.errors import DataError, ParamsError, PredictionsError
from antvisionps.fusion.routing import read_routing
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.drawing import category_set, draw
from tests.interchange.test_writer import as_dict
from tests.pipeline.workspace import ENDS, bytes_below

CATEGORIES = category_set({1: "cat", 2: "dog"}, {7: "sky", 8: "sea"})
HW = (4, 6)
CAT = draw("###... ###... ...... ......")
WIDE_CAT = draw("####.. ####.. ...... ......")
SKY_LEFT = np.where(np.arange(6) < 3, 7, 8) + np.zeros((4, 1), int)

ANY_SIZE = {"min_stuff_area_px": 0, "min_score": 0.0}


def masks(*rows):
    """Of (category_id, score, mask)."""
    category_ids, scores, drawn = zip(*rows, strict=True)
    return {"masks": np.array(drawn), "scores": scores, "category_ids": category_ids}


def fuse(predictions, **settings):
    return antvisionps.fuse(predictions, categories=CATEGORIES, hw=HW, **(ANY_SIZE | settings))


def test_two_models_in_memory_are_joined_and_every_segment_and_reject_has_its_source():
    a = masks((1, 0.9, CAT), (2, 0.4, draw("...... ...... ###### ######"))) | {"semantic": SKY_LEFT}
    b = masks((1, 0.7, WIDE_CAT)) | {"semantic": SKY_LEFT}
    fused = fuse({"a": a, "b": b})
    found = [(segment.category_id, segment.end, segment.score) for segment in fused.segments]
    assert found[0] == (1, "a+b", pytest.approx(0.8))
    assert found[1][:2] == (2, "a")  # one of two models found it: half of its score
    assert found[1][2] == pytest.approx(0.2)
    np.testing.assert_array_equal(fused.segment_ids != 0, True)
    everything = fuse({"a": a, "b": b}, instances="all")
    assert [(one.end, one.reason) for one in everything.rejected if one.score] == [("b", "overlap_frac")]
    from_b = fuse({"a": a, "b": b}, instances={"cat": "b", 2: "a"})
    assert [one.end for one in from_b.segments[:2]] == ["b", "a"]
    np.testing.assert_array_equal(from_b.segment_ids == 1, WIDE_CAT)
    assert [(one.end, one.reason) for one in from_b.rejected if one.score] == [("a", "routed_away")]


def test_doubt_is_of_the_pixels_category_where_no_segment_has_a_probability():
    prediction = masks((1, 0.9, CAT)) | {"semantic": SKY_LEFT}
    np.testing.assert_array_equal(fuse({"a": prediction}, doubt=True).doubt, CAT)  # no pixel's semantics say cat
    assert fuse({"a": prediction}).doubt is None


def test_thresholds_are_a_presets_unless_they_are_given():
    a = masks((1, 0.55, CAT)) | {"semantic": SKY_LEFT}
    alone = {"predictions": {"a": a}, "categories": CATEGORIES.to_json(), "hw": HW}
    assert [one.category_id for one in antvisionps.fuse(**alone).segments] == [1]  # stuff below 4096 px
    assert antvisionps.fuse(**alone, preset="mmdet").segments == ()
    assert [one.category_id for one in antvisionps.fuse(**alone, preset="mmdet", min_scores={"cat": 0.5}).segments] == [
        1
    ]
    assert [one.category_id for one in antvisionps.fuse(**alone, min_stuff_area_px=12).segments] == [1, 8]


def test_a_union_asks_for_a_lower_score_by_default_as_it_lowers_what_one_model_found_alone():
    far = draw("...... ...... ...### ...###")
    a = masks((1, 0.65, CAT), (2, 0.55, far)) | {"semantic": SKY_LEFT}
    b = masks((1, 0.1, far))

    def scores(*models, **settings):
        predictions = dict(zip("ab", models, strict=False))
        fused = antvisionps.fuse(predictions, categories=CATEGORIES, hw=HW, **settings)
        return [one.score for one in fused.segments], [one.reason for one in fused.rejected if one.score]

    assert scores(a) == ([pytest.approx(0.65), pytest.approx(0.55)], [])
    assert scores(a, {"semantic": SKY_LEFT})[0] == scores(a)[0]  # the other has no instances
    assert scores(a, b, instance_weights={"b": 0})[0] == scores(a)[0]
    assert scores(a, b) == ([pytest.approx(0.325)], ["low_score"] * 2)  # 0.65 / 2 is above 0.3, 0.55 / 2 below
    assert scores(a, b, min_score=0.5)[0] == []
    assert scores(a, b, preset="mmdet")[0] == []  # 0.36
    assert scores(a, b, instances="all")[0] == scores(a)[0]


def test_masks_and_class_scores_on_a_padded_input_are_the_photos():
    """Masks and scores on twice the photo's pixels, with rows and columns below and beside it that are not its own."""
    letterboxed = {
        "masks": np.pad(CAT.repeat(2, axis=0).repeat(2, axis=1), ((0, 4), (0, 2)), constant_values=True)[None],
        "scores": [0.9],
        "category_ids": [1],
        "semantic": np.pad(np.stack([SKY_LEFT == 7, SKY_LEFT == 8]).astype(np.float32), ((0, 0), (0, 2), (0, 1))),
        "semantic_labels": [7, 8],
    }
    padding = {"input_hw": {"a": (8, 12)}, "padded_hw": {"a": (12, 14)}}
    fused = fuse({"a": letterboxed}, **padding)
    np.testing.assert_array_equal(fused.segment_ids == 1, CAT)
    plain = fuse({"a": masks((1, 0.9, CAT)) | {"semantic": SKY_LEFT}})
    np.testing.assert_array_equal(fused.segment_ids, plain.segment_ids)
    with pytest.raises(PredictionsError, match="a: image 0: semantic: expected a grid of one stride"):
        fuse({"a": letterboxed | {"semantic": np.ones((2, 5, 7))}}, **padding)


def test_models_without_semantics_leave_the_rest_void_and_raw_queries_go_through_upsnets_head():
    fused = fuse({"a": masks((1, 0.9, CAT)), "b": masks((1, 0.9, CAT))})
    np.testing.assert_array_equal(fused.segment_ids, CAT)
    logits = np.where(np.stack([CAT, ~CAT]), 8.0, -8.0)
    raw = {"pred_logits": 9.0 * np.eye(5)[[0, 2]], "pred_masks": logits}
    names = [category.name for category in CATEGORIES.categories]
    by_head = fuse({"q": raw}, labels={"q": names}, method="panoptic_head", min_score=0.5)
    assert [(one.category_id, one.end) for one in by_head.segments] == [(1, "q"), (7, "q")]
    np.testing.assert_array_equal(by_head.segment_ids, np.where(CAT, 1, 2))


def test_what_does_not_fit_is_one_line():
    a = masks((1, 0.9, CAT))
    for arguments, error, match in (
        ({"preset": "mine"}, ParamsError, "fuse: preset: Input should be 'panopticapi'.* got 'mine'"),
        ({"method": "auto"}, ParamsError, "method auto is fitted on held-out images"),
        ({"min_scoer": 0.5}, ParamsError, "fuse: min_scoer: "),
        ({"min_score": 1.5}, ParamsError, "fuse: min_score: .* got 1.5"),
        ({"semantic_weights": {"b": 1.0}}, ParamsError, r"a weight of b, which is no model; expected of \['a'\]"),
        ({"semantic_weights": {"a": 0.0}}, ParamsError, "are all zero"),
        ({"instances": {"cat": "a"}}, ParamsError, r"expected one of \['a'\] for dog \(2\), got None"),
        ({"min_scores": {"sky": 0.5}}, ParamsError, "min_scores names 'sky'; expected things"),
        ({"labels": {"b": []}}, PredictionsError, "labels of b, which is no model"),
        ({"labels": ["cat", "dog"]}, PredictionsError, r"labels: expected a table \{model: …\}, got a list"),
        ({"input_hw": HW}, PredictionsError, r"input_hw: expected a table \{model: …\}, got a tuple"),
        ({"predictions": [a]}, PredictionsError, r"predictions: expected a table \{model: …\}, got a list"),
        ({"padded_hw": {"b": HW}}, PredictionsError, "padded_hw of b, which is no model"),
        ({"padded_hw": {"a": HW}}, PredictionsError, "^a: expected input_hw and padded_hw together"),
        ({"predictions": {"a": SKY_LEFT}}, PredictionsError, "no model has instances"),
        ({"predictions": {"a": a | {"scores": [2]}}}, PredictionsError, "^a: image 0: expected a score from 0 to 1"),
        ({"categories": {}}, DataError, "expected a list of categories"),
    ):
        with pytest.raises(error, match=match) as refusal:
            antvisionps.fuse(**({"predictions": {"a": a}, "categories": CATEGORIES, "hw": HW} | arguments))
        assert "\n" not in str(refusal.value)


CHOICES = {"min_score": 0.3, "max_overlap_frac": 0.5, "min_stuff_area_px": 32, "semantic_weights": {"lwl_htc": 0.5}}
"""As write_params has them; this min_score is a union's by default."""


@pytest.fixture(scope="module")
def of_ends(done):
    """The split, and end → image_id → what its cache has."""
    return open_split(done.prepared, "val"), results_of_ends(done, "val")


def results_of_ends(done, split):
    results = {}
    for end in ENDS:
        folder = done.predictions / end / split
        with InstancesReader(folder / INSTANCES_FILE) as found, SemanticReader(folder / SEMANTIC_FILE) as planes:
            results[end] = {one.image_id: as_dict(one, two) for one, two in zip(found, planes, strict=True)}
    return results


@pytest.fixture(scope="module")
def by_stage(done, tmp_path_factory):
    """What stage fuse makes of the union of both ends."""
    return done.fuse(tmp_path_factory.mktemp("by_stage") / "fused", "fusion", instance_ensemble="union") / "fusion"


def test_an_image_in_memory_is_fused_as_by_the_stage(of_ends, by_stage):
    dataset, results = of_ends
    maps = read_panoptic(by_stage / "panoptic.json", images_dir=by_stage, panoptic_dir=by_stage / "panoptic")
    for image in maps.images:
        predictions = {end: results[end][image.image_id] for end in ENDS}
        hw = (image.height, image.width)
        fused = antvisionps.fuse(predictions, categories=dataset.annotations, hw=hw, **CHOICES)
        np.testing.assert_array_equal(fused.segment_ids, maps.load_segment_ids(image))


@pytest.fixture(scope="module")
def written(done, tmp_path_factory):
    """Split → end → a folder of Writer's, of what its cache has."""
    folder = tmp_path_factory.mktemp("written")
    for split in ("val", "heldout"):
        for end, by_image in results_of_ends(done, split).items():
            with antvisionps.Writer(end, gt=done.prepared / f"{split}.json", to=folder / split / end) as writer:
                for image_id, result in by_image.items():
                    writer.add(image_id, result)
    return {split: {end: folder / split / end for end in ENDS} for split in ("val", "heldout")}


def command_for(dataset, written, out):
    command = ["fuse", "--gt", str(dataset.annotations), str(dataset.panoptic_dir), "--out", str(out)]
    return command + [word for end in ENDS for word in ("--pred", str(written["val"][end]))]


def with_settings(command, **settings):
    return command + [
        word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value).strip(chr(34))}")
    ]


@pytest.mark.parametrize(("workers", "default"), [(1, None), (2, "min_score")])
def test_folders_are_fused_as_by_the_stage(of_ends, written, by_stage, tmp_path, capsys, workers, default):
    given = {name: value for name, value in CHOICES.items() if name != default}
    command = with_settings(command_for(of_ends[0], written, tmp_path / "out"), **given)
    cli.main([*command, "--workers", str(workers)])
    assert "5 panoptic maps of e_ups + lwl_htc" in capsys.readouterr().out
    assert bytes_below(tmp_path / "out") == bytes_below(by_stage)


def calibrating(done, written):
    heldout = open_split(done.prepared, "heldout")
    options = ["--calibrate-on", str(heldout.annotations), str(heldout.panoptic_dir)]
    return options + [word for end in ENDS for word in ("--calibrate-pred", str(written["heldout"][end]))]


def test_held_out_folders_are_calibrated_on_as_by_the_stages(done, of_ends, written, tmp_path, capsys):
    routes = read_routing(done.routing, categories=of_ends[0].categories, ends=list(ENDS)).end_of_category
    begin = {"min_score": 0.5, "min_stuff_area_px": 256, "instances": {str(key): end for key, end in routes.items()}}
    command = with_settings(command_for(of_ends[0], written, tmp_path / "out"), **begin)
    cli.main([*command, *calibrating(done, written), "--workers", "1"])
    assert "fused, held-out PQ in percent: plain " in capsys.readouterr().out
    calibration = (tmp_path / "out" / "calibration.json").read_bytes()
    assert calibration == (done.calibration / "fusion.json").read_bytes()
    by_stages = done.fuse(tmp_path / "fused", "fusion", calibrated=True) / "fusion"
    assert bytes_below(tmp_path / "out") == bytes_below(by_stages) | {Path("calibration.json"): calibration}


def test_method_auto_is_fitted_on_held_out_folders_as_by_the_stages(done, auto, written, tmp_path):
    val, heldout = (open_split(done.prepared, split) for split in ("val", "heldout"))
    antvisionps.fuse_folders(
        written["val"],
        gt=val.annotations,
        out=tmp_path / "out",
        calibrate_on=(heldout.annotations, heldout.panoptic_dir, written["heldout"]),
        method="auto",
        doubt=True,
    )
    maps, doubt = (tmp_path / "out" / folder for folder in ("panoptic", "doubt"))
    assert sorted(path.name for path in doubt.iterdir()) == sorted(path.name for path in maps.iterdir())
    shutil.rmtree(doubt)
    calibration = (auto / "calibration" / "fusion.json").read_bytes()
    expected = bytes_below(auto / "fused" / "fusion") | {Path("calibration.json"): calibration}
    assert bytes_below(tmp_path / "out") == expected


def test_held_out_folders_that_do_not_fit_are_one_line(done, of_ends, written, tmp_path, refused):
    command, options = command_for(of_ends[0], written, tmp_path / "out"), calibrating(done, written)
    alone = tmp_path / "lwl_htc"
    shutil.copytree(written["heldout"]["lwl_htc"], alone)
    (alone / SEMANTIC_FILE).unlink()
    for more, match in (
        (options[:3], "--calibrate-on and --calibrate-pred: expected both"),
        (options[:-2], "the models ['e_ups', 'lwl_htc'] are fused, and ['e_ups'] predicted the held-out images"),
        ([*options[:-1], str(alone)], "lwl_htc: semantics of the held-out images or of the others, not of both"),
        ([*options, "--set", "min_scores={1: 0.5}"], "fuse: min_scores has no use where held-out images decide"),
        ([*options, "--set", "method=auto", "--set", "min_score=0.5"], "fuse: min_score has no use"),
        (["--set", "method=auto"], "method auto is fitted on held-out images"),
    ):
        assert match in refused(*command, *more)
    assert list(tmp_path.iterdir()) == [alone]


@pytest.mark.parametrize("is_annotated", [True, False])
def test_folders_of_other_tools_need_no_truth_and_models_need_names(of_ends, tmp_path, capsys, is_annotated):
    """Of masks alone, whose truth nobody has, what is left is void."""
    dataset, results = of_ends
    document = json.loads(dataset.annotations.read_text())
    for annotation in document["annotations"]:
        annotation["segments_info"] = []
    if not is_annotated:
        document["annotations"] = []
    (tmp_path / "images.json").write_text(json.dumps(document))
    for end in ("a", "b"):
        rows = [
            {"image_id": image_id, "category_id": category_id, "score": score, "segmentation": rle}
            for image_id, result in results["e_ups"].items()
            for category_id, score, rle in zip(
                result["category_ids"].tolist(), result["scores"].tolist(), as_text(result["masks"]), strict=True
            )
        ]
        (tmp_path / end / "val").mkdir(parents=True)
        (tmp_path / end / "val" / "instances.json").write_text(json.dumps(rows))
    command = ["fuse", "--gt", str(tmp_path / "images.json"), "--out", str(tmp_path / "out")]
    folders = [str(tmp_path / end / "val") for end in ("a", "b")]
    with pytest.raises(SystemExit):
        cli.main([*command, "--pred", folders[0], "--pred", folders[1]])
    assert "two models are called val; name them, as --pred other=" in capsys.readouterr().err
    cli.main([*command, "--pred", f"a={folders[0]}", "--pred", f"b={folders[1]}", "--preset", "detectron2"])
    segments = pq.read_table(tmp_path / "out" / "segments.parquet").to_pylist()
    assert {row["end"] for row in segments} == {"a+b"}
    assert min(row["score"] for row in segments) >= 0.3  # a union's threshold by default
    assert list(tmp_path.rglob(".*")) == []


def test_a_folder_that_holds_predictions_is_not_replaced_and_a_path_may_hold_an_equals_sign(
    of_ends, written, tmp_path, capsys
):
    folder = shutil.copytree(written["val"]["e_ups"], tmp_path / "out" / "lr=0.1" / "val")
    command = ["fuse", "--gt", str(of_ends[0].annotations), "--pred", str(folder), "--out"]
    with pytest.raises(SystemExit):
        cli.main([*command, str(tmp_path / "out")])
    assert "out: holds lr=0.1, and is replaced whole; name a new folder" in capsys.readouterr().err
    for _ in range(2):
        cli.main([*command, str(tmp_path / "fused")])
    assert {*pq.read_table(tmp_path / "fused" / "segments.parquet")["end"].to_pylist()} == {"val"}


@pytest.mark.parametrize("name", ["{folder}", "../x", "..", "a/b", "a\\b", "", "."])
def test_a_name_of_a_model_that_leads_to_another_folder_is_refused_and_the_folder_stays(
    of_ends, written, tmp_path, name
):
    folder = shutil.copytree(written["val"]["e_ups"], tmp_path / "mine" / "val")
    before = bytes_below(tmp_path)
    name = name.format(folder=folder.parent)
    with pytest.raises(ParamsError, match="expected models' names without folders"):
        antvisionps.fuse_folders({name: folder}, gt=of_ends[0].annotations, out=tmp_path / "out")
    assert bytes_below(tmp_path) == before


def as_text(rles):
    return [rle | {"counts": rle["counts"].decode()} for rle in rles]


def test_a_wrong_setting_of_the_command_is_one_line(of_ends, tmp_path, refused):
    dataset, _ = of_ends
    command = ["fuse", "--gt", str(dataset.annotations), "--out", str(tmp_path / "out"), "--pred", str(tmp_path / "a")]
    for more, match in (
        (["--set", "min_score"], "--set min_score: expected NAME=VALUE"),
        (["--set", "min_score=high"], "fuse: min_score: "),
        ([], "a: no such folder"),
    ):
        assert match in refused(*command, *more)
    assert list(tmp_path.iterdir()) == []


def test_the_package_imports_nothing_until_it_is_asked():
    script = (
        "import sys, antvisionps; print(sorted({'numpy', 'torch', 'pyarrow'} & set(sys.modules))); antvisionps.fuse"
    )
    script += "; antvisionps.Writer; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["[]", "False"], ran.stderr
