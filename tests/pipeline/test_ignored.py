"""Values of section fuse that nothing uses: what stages print and record of them, and what sweeps refuse."""

import json

import pytest

from antvisionps.cli import main as cli
from antvisionps.panoptic.splits import open_split
from antvisionps.params.whole import load_params
from antvisionps.pipeline.ignored import describe_ignored
from antvisionps.pipeline.settings import system_settings
from tests.pipeline.workspace import SYSTEMS, succeed, write_params


@pytest.fixture
def ignored(done, tmp_path):
    """What a run of all systems with these choices ignores; the workspace's own thresholds are 0.3, 0.5 and 32."""
    categories = open_split(done.prepared, "val").categories

    def describe(systems=SYSTEMS, calibration=done.calibration, **choices):
        params = load_params(write_params(tmp_path / "params.yaml", systems=list(systems), **choices))
        places = {"categories": categories, "routing": done.routing, "calibration": calibration}
        settings = [system_settings(name, params, **places) for name in params.fuse.systems]
        return describe_ignored(params, settings)

    return describe


def test_a_run_that_uses_all_its_values_ignores_nothing(ignored):
    assert ignored() == ""
    assert ignored(order="learned", min_scores={"ring": 0.2}, max_nms_iou=0.5, min_stuff_confidence=0.2) == ""
    assert ignored(preset="upsnet", min_score=0.6, max_overlap_frac=0.3, min_stuff_area_px=4096, max_nms_iou=0.5) == ""


def test_values_that_a_preset_replaces_are_ignored_and_what_it_leaves_alone_is_not(ignored):
    said = ignored(preset="upsnet", max_overlap_frac=0.3, min_scores={"ring": 0.2}, order="learned")
    assert said == (
        "fuse.max_nms_iou=null, fuse.min_score=0.3, fuse.min_stuff_area_px=32 (fuse.preset=upsnet takes its place)"
    )


def test_the_calibration_replaces_thresholds_tables_preset_and_weights(ignored, done):
    said = ignored(calibrated=True, preset="mmdet", min_score=0.123, max_nms_iou=0.4, min_scores={"ring": 0.2})
    assert said.endswith(" (fuse.calibrated=true takes its place)")
    values = ("max_nms_iou=0.4", "min_score=0.123", 'min_scores={"ring": 0.2}', "preset=mmdet", "semantic_weights={")
    assert [value for value in values if f"fuse.{value}" not in said] == []
    on_top = json.loads((done.calibration / "fusion.json").read_text())["on_top"]
    assert ("fuse.order=learned" in ignored(["fusion"], calibrated=True, order="learned")) == (not on_top)


def test_what_the_method_or_the_systems_do_not_have_is_ignored(ignored):
    weights = {"e_ups": 2.0}
    assert ignored(instance_weights=weights) == (
        'fuse.instance_weights={"e_ups": 2.0} (only a union has weights of instances)'
    )
    assert ignored(instance_weights=weights, instance_ensemble="union") == ""
    assert "no system has several ends" in ignored(["e_ups"], semantic_weights=weights)
    head = {"method": "panoptic_head", "order": "learned", "min_stuff_confidence": 0.3}
    assert ignored(**head) == "fuse.order=learned, fuse.min_stuff_confidence=0.3 (the panoptic head has none)"
    assert ignored(**head, methods={"e_ups": "heuristic"}) == ""


def test_fuse_and_score_print_it_and_the_metrics_keep_it(done, tmp_path, capsys):
    assert "ignored" not in (done.root / "fuse.txt").read_text() + (done.root / "score.txt").read_text()
    assert (done.metrics / "ignored.json").read_text() == "{}\n"
    params = write_params(tmp_path / "params.yaml", systems=["e_ups"], preset="upsnet", semantic_weights={})
    expected = (
        "fuse.max_nms_iou=null, fuse.max_overlap_frac=0.5, fuse.min_score=0.3, fuse.min_stuff_area_px=32 "
        "(fuse.preset=upsnet takes its place)"
    )
    fused = succeed(done.run("fuse", params=params, out=tmp_path / "fused"))
    assert fused.stdout.splitlines() == [f"ignored: {expected}"]
    places = {"fused": tmp_path / "fused", "out": tmp_path / "metrics", "scores": tmp_path / "scores"}
    scored = succeed(done.run("score", "--no-error-budget", params=params, **places))
    assert scored.stdout.splitlines()[-1] == f"ignored: {expected}"
    assert json.loads((tmp_path / "metrics" / "ignored.json").read_text()) == {"ignored": expected}
    cli.main(["results", str(tmp_path / "metrics" / "panoptic.json")])
    assert capsys.readouterr().out.splitlines()[-1] == f"ignored: {expected}"


def test_what_auto_fits_itself_is_ignored_where_it_is_set(ignored, auto):
    said = ignored(["fusion"], calibration=auto / "calibration", method="auto", preset="mmdet", calibrated=True)
    assert said == (
        "fuse.calibrated=true, fuse.min_score=0.3, fuse.min_stuff_area_px=32, fuse.preset=mmdet, "
        'fuse.semantic_weights={"e_ups": 1.0, "lwl_htc": 0.5} (fuse.method=auto fits its own)'
    )
