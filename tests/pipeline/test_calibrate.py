"""What calibrate finds on held-out images, and that fuse takes it."""

import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from antvisionps.panoptic.splits import open_split
from antvisionps.params.whole import load_params
from antvisionps.pipeline.calibrate import HeldoutPQ, calibrate, cross_validated_pq, starting_settings
from antvisionps.predictions.split_caches import SplitCaches
from tests.pipeline.workspace import ENDS, SYSTEMS, bytes_below, change_params, succeed, write_params


def test_calibration_never_loses_on_held_out(done):
    assert {path.name for path in done.calibration.iterdir()} == {f"{system}.json" for system in SYSTEMS}
    printed = (done.root / "calibrate.txt").read_text()
    for system in SYSTEMS:
        found = json.loads((done.calibration / f"{system}.json").read_text())
        pq_of = found["heldout_pq"]
        assert pq_of["calibrated"] >= pq_of["plain"] > 0
        assert 0 < pq_of["cross_validated"] < 1
        assert set(found["semantic_weights"]) == (set(ENDS) if system == "fusion" else {system})
        percents = ", ".join(f"{name} {100 * value:.1f}" for name, value in pq_of.items())
        assert f"{system}, held-out PQ in percent: {percents}" in printed
    assert pq_of["calibrated"] > pq_of["plain"]


@pytest.fixture
def recording(done):
    """Held-out images that note, in `noted`, which of them and how many settings each pass has."""

    @dataclass(frozen=True)
    class Recording(HeldoutPQ):
        noted: list = field(default_factory=list)

        def count(self, settings):
            if settings:
                self.noted.append(([image.image_id for image in self.images], len(settings)))
            return super().count(settings)

    caches = SplitCaches.open(done.predictions, done.prepared, "heldout", promised={})
    return Recording(caches, caches.dataset.images, workers=1, min_instances=1)


@pytest.fixture
def start(done, recording):
    params = load_params(done.params)
    return starting_settings("fusion", params, caches=recording.caches, routing=done.routing)


def test_cross_validation_measures_no_image_by_what_was_fitted_on_it(start, recording):
    assert 0 < cross_validated_pq(start, recording) < 1
    ids = [image.image_id for image in recording.images]
    one, other = ids[::2], ids[1::2]
    passes = [images for images, _ in recording.noted]
    turn = passes.index(other)
    assert passes == [one] * turn + [other] + [other] * (len(passes) - turn - 2) + [one]
    assert [settings for _, settings in recording.noted[:3]] == [1, 4, 24]
    assert recording.noted[turn][1] == recording.noted[-1][1] == 1


def test_cross_validation_of_halves_that_are_alike_gives_what_was_calibrated(start, recording):
    twice = replace(recording, images=[image for image in recording.images for _ in range(2)])
    calibration = calibrate(start, recording)
    assert cross_validated_pq(start, twice) == pytest.approx(calibration.heldout_pq["calibrated"], abs=1e-12)
    assert cross_validated_pq(start, replace(twice, images=twice.images[:1])) is None


def test_calibration_reads_no_image_of_val_shows_a_bar_a_system_and_is_the_same_from_two_processes(done, tmp_path):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    for end in ENDS:
        shutil.rmtree(predictions / end / "val")
    params = write_params(tmp_path / "params.yaml", workers=2, systems=["fusion"])
    ran = succeed(done.run("calibrate", params=params, predictions=predictions, out=tmp_path / "found"))
    assert set(re.findall(r"([^\r\n]+): +\d+%", ran.stderr)) == {"calibrate fusion"}
    assert "calibrate fusion: 100%" in ran.stderr
    assert bytes_below(tmp_path / "found") == {Path("fusion.json"): (done.calibration / "fusion.json").read_bytes()}


def test_fuse_takes_what_was_fitted_and_no_other_thresholds(done, tmp_path):
    fitted = bytes_below(done.fuse(tmp_path / "alone", "fusion", calibrated=True))
    assert fitted != bytes_below(done.fuse(tmp_path / "plain", "fusion"))
    for name, other in (("preset", {"preset": "mmdet"}), ("nms", {"max_nms_iou": 0.1, "min_score": 0.9})):
        assert bytes_below(done.fuse(tmp_path / name, "fusion", calibrated=True, **other)) == fitted


def test_the_learned_order_is_fused_without_what_else_was_fitted(done, tmp_path):
    """A class that lies over all others shows more of itself."""
    document = json.loads((done.calibration / "fusion.json").read_text())
    assert set(map(tuple, document["on_top"])) <= set(map(tuple, document["learned_on_top"]))
    first, *others = (category.category_id for category in open_split(done.prepared, "val").categories.things)
    (tmp_path / "calibration").mkdir()
    places, areas = {"calibration": tmp_path / "calibration"}, []
    for name, pairs in (("none", []), ("first", [[first, other] for other in others])):
        fitted = document | {"learned_on_top": pairs, "semantic_weights": {"e_ups": 1.0}}
        (tmp_path / "calibration" / "e_ups.json").write_text(json.dumps(fitted))
        fused = done.fuse(tmp_path / name, "e_ups", places=places, order="learned", max_overlap_frac=1.0)
        rows = pq.read_table(fused / "e_ups" / "segments.parquet").to_pylist()
        areas.append(sum(row["area_px"] for row in rows if row["category_id"] == first))
    plain = done.fuse(tmp_path / "plain", "e_ups", max_overlap_frac=1.0)
    assert bytes_below(tmp_path / "none") == bytes_below(plain)
    assert areas[1] > areas[0]


def test_a_union_is_calibrated_on_held_out(done, union, tmp_path):
    succeed(done.run("calibrate", params=union / "params.yaml", out=tmp_path / "calibration"))
    found = json.loads((tmp_path / "calibration" / "fusion.json").read_text())["heldout_pq"]
    assert found["calibrated"] > found["plain"] > 0
    params = change_params(union / "params.yaml", tmp_path / "params.yaml", fuse={"calibrated": True})
    succeed(done.run("fuse", params=params, calibration=tmp_path / "calibration", out=tmp_path / "fused"))
    assert bytes_below(tmp_path / "fused") != bytes_below(union / "fused")


def test_temperatures_are_fitted_on_held_out_and_fused_by(done, tmp_path):
    changes = {"calibrate": {"temperature": True}, "fuse": {"systems": ["lwl_htc"]}}
    params = change_params(done.params, tmp_path / "params.yaml", **changes)
    ran = succeed(done.run("calibrate", params=params, out=tmp_path / "calibration"))
    path = tmp_path / "calibration" / "temperatures.json"
    found = json.loads(path.read_text())
    assert {*found} == {*ENDS}
    assert f"temperature: e_ups {found['e_ups']:.2f}, lwl_htc" in ran.stdout
    places = {"calibration": tmp_path / "calibration"}
    maps = []
    for temperature in (1.0, 4.0):
        path.write_text(json.dumps({"e_ups": temperature}))
        maps.append(bytes_below(done.fuse(tmp_path / f"{temperature}", "fusion", places=places)))
    assert maps[0] == bytes_below(done.fuse(tmp_path / "plain", "fusion"))
    assert maps[0] != maps[1]
