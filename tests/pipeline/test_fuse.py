"""What each choice of section fuse does to the maps."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.png import decode_segment_ids
from antvisionps.panoptic.splits import open_split
from antvisionps.predictions.instances import InstancesReader, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader, SemanticWriter
from tests.pipeline.workspace import ENDS, SYSTEMS, bytes_below, change_params, fail, succeed, write_params


def rows_of(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def instances_in(space, *ends):
    return sum(pq.read_metadata(space.predictions / end / "val" / INSTANCES_FILE).num_rows for end in ends)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_maps_are_whole_and_every_instance_is_a_segment_or_rejected_for_a_reason(done, system):
    folder = done.fused / system
    truth = open_split(done.prepared, "val")
    fused = read_panoptic(folder / "panoptic.json", images_dir=truth.images_dir, panoptic_dir=folder / "panoptic")
    assert [image.image_id for image in fused.images] == [image.image_id for image in truth.images]
    rows = rows_of(folder, "segments")
    described = [(i.image_id, s.segment_id, s.category_id, s.area_px) for i in fused.images for s in i.segments]
    assert [(r["image_id"], r["segment_id"], r["category_id"], r["area_px"]) for r in rows] == described
    for image in fused.images:
        ids = fused.load_segment_ids(image)  # checks pixels against segments both ways
        assert sorted(set(np.unique(ids)) - {0}) == list(range(1, len(image.segments) + 1))
    ends = {row["end"] for row in rows}
    assert ends == ({*ENDS, "e_ups+lwl_htc"} if system == "fusion" else {system})
    for row in rows:
        assert (row["score"] is None) == (not truth.categories.by_id(row["category_id"]).is_thing)
    rejected = rows_of(folder, "candidates")
    predicted = instances_in(done, *(ENDS if system == "fusion" else [system]))
    assert sum(row["score"] is not None for row in rows + rejected) == predicted
    reasons = {row["reason"] for row in rejected}
    assert {"low_score", "overlap_frac"} <= reasons
    assert ("routed_away" in reasons) == (system == "fusion")


def test_routed_categories_come_from_their_end_only_or_all_from_the_better_one(done, tmp_path):
    routing = json.loads((done.routing / "routing.json").read_text())
    end_of = {row["category_id"]: row["end"] for row in routing["categories"]}
    for row in rows_of(done.fused / "fusion", "segments"):
        assert row["end"] == end_of.get(row["category_id"], "e_ups+lwl_htc")
    single = done.fuse(tmp_path / "single", "fusion", instance_ensemble="best_overall")
    ends = {row["end"] for row in rows_of(single / "fusion", "segments")}
    assert ends == {routing["better_overall"], "e_ups+lwl_htc"}


def name(thing):
    return thing.name


def number(thing):
    return thing.category_id


def digits(thing):
    """As `-S ++fuse.min_scores.7=0.6` writes it."""
    return str(thing.category_id)


@pytest.mark.parametrize("keys", [(name, digits), (number, number), (name, name)])
def test_a_class_may_have_a_score_threshold_of_its_own_by_name_or_id(done, tmp_path, keys):
    """Of that class what scores less is rejected; of the others all is as it was."""
    one, other, *_ = open_split(done.prepared, "val").categories.things
    first, second = (key_of(thing) for key_of, thing in zip(keys, (one, other), strict=True))
    fused = done.fuse(tmp_path / "fused", "e_ups", min_scores={first: 0.6, second: 0.0})
    lowest = {one.category_id: 0.6, other.category_id: 0.0}
    scored = [row for row in rows_of(fused / "e_ups", "candidates") if row["score"] is not None]
    assert {row["reason"] for row in scored} > {"low_score"}
    for row in scored:
        assert (row["reason"] == "low_score") == (row["score"] < lowest.get(row["category_id"], 0.3))


@pytest.mark.parametrize("key", ["dragon", 999, "sky", 0])
def test_a_score_threshold_of_no_thing_is_refused(done, tmp_path, key):
    things = open_split(done.prepared, "val").categories.things
    params = write_params(tmp_path / "params.yaml", min_scores={key: 0.5})
    line = fail(done.run("fuse", params=params, out=tmp_path / "fused"))
    assert f"fuse.min_scores names {key!r}; expected things by name or id, of {things[0].name} (" in line
    assert not (tmp_path / "fused").exists()


def test_a_preset_replaces_the_thresholds(done, tmp_path):
    values = {"min_score": 0.6, "max_overlap_frac": 0.5, "min_stuff_area_px": 4096, "max_nms_iou": 0.5}
    by_name = done.fuse(tmp_path / "name", "e_ups", preset="mmdet")
    assert bytes_below(by_name) == bytes_below(done.fuse(tmp_path / "value", "e_ups", **values))


def test_a_union_names_all_ends_of_what_it_joined_and_every_two_merged_instances_made_another(done, union):
    segments, rejected = (
        [row for row in rows_of(union / "fused" / "fusion", name) if row["score"] is not None]
        for name in ("segments", "candidates")
    )
    assert {row["end"] for row in segments} == {*ENDS, "e_ups+lwl_htc"}
    merged = [row["end"] for row in rejected if row["reason"] == "merged"]
    assert set(merged) == set(ENDS)
    assert len(segments) + len(rejected) == instances_in(done, *ENDS) + len(merged) // len(ENDS)
    assert "routed_away" not in {row["reason"] for row in rejected}


def test_a_rejected_candidate_names_its_row_in_the_cache(done, union):
    """Under a union scores and positions are others than in the cache."""
    cached = {}
    for end in ENDS:
        for row in pq.read_table(done.predictions / end / "val" / INSTANCES_FILE).to_pylist():
            cached.setdefault((end, row["image_id"]), []).append(row)
    for folder in (*(done.fused / system for system in SYSTEMS), union / "fused" / "fusion"):
        rejected = rows_of(folder, "candidates")
        own = [row for row in rejected if row["score"] is not None and row["end"] in ENDS]
        assert {row["instance"] for row in rejected if row not in own} <= {None}
        named = [(row["end"], row["image_id"], row["instance"]) for row in own]
        assert len(set(named)) == len(named) > 0
        for row in own:
            found = cached[row["end"], row["image_id"]][row["instance"]]
            assert (found["category_id"], found["area_px"]) == (row["category_id"], row["area_px"])
            assert row["score"] in (pytest.approx(found["score"]), pytest.approx(found["score"] / 2))


def test_a_system_alone_is_fused_to_the_same_bytes_as_beside_others(done, union, tmp_path):
    """Under a union the fusion reads mask probabilities, which the ends alone do not need."""
    for system in SYSTEMS:
        assert bytes_below(done.fuse(tmp_path / system, system) / system) == bytes_below(done.fused / system)
    params = change_params(union / "params.yaml", tmp_path / "params.yaml", fuse={"systems": list(SYSTEMS)})
    succeed(done.run("fuse", params=params, out=tmp_path / "together"))
    for system, alone in (("fusion", union / "fused"), ("lwl_htc", done.fused)):
        assert bytes_below(tmp_path / "together" / system) == bytes_below(alone / system)


def test_log_probabilities_and_the_panoptic_head_change_the_systems_that_they_are_chosen_for(done, tmp_path):
    choices = {"semantic_average": "log_probabilities", "methods": {"e_ups": "panoptic_head"}}
    fused = done.fuse(tmp_path / "fused", *SYSTEMS, **choices)
    changed = [system for system in SYSTEMS if bytes_below(fused / system) != bytes_below(done.fused / system)]
    assert changed == ["e_ups", "fusion"]


def import_lwl_htc(done, folder, reader, writer, name):
    """predictions of e_ups, and of an imported end `mine` with one of the two files of lwl_htc."""
    predictions = folder / "predictions"
    shutil.copytree(done.predictions / "e_ups", predictions / "e_ups")
    for split in ("heldout", "val"):
        with reader(done.predictions / "lwl_htc" / split / name) as cache:
            header, images = replace(cache.header, end="mine"), list(cache)
        with writer(predictions / "mine" / split / name, header) as imported:
            for image in images:
                imported.write(image)
    return predictions


def params_with_mine(path, **fuse):
    write_params(path, semantic_weights={}, **fuse)
    return change_params(
        path, path, ends=["e_ups"], predict={"separate_ends": ["e_ups"]}, import_end={"ends": ["mine"]}
    )


def test_an_end_may_have_semantics_only(done, tmp_path):
    predictions = import_lwl_htc(done, tmp_path, SemanticReader, SemanticWriter, SEMANTIC_FILE)
    places = {"predictions": predictions, "routing": tmp_path / "routing"}
    places["params"] = params_with_mine(tmp_path / "params.yaml", systems=["fusion"])
    own = {name: place for name, place in places.items() if name != "routing"}
    succeed(done.run("evaluate_heldout", **own, out=tmp_path / "routing"))
    routed = json.loads((tmp_path / "routing" / "routing.json").read_text())["categories"]
    assert {(row["end"], row["reason"]) for row in routed} == {("e_ups", "only_end")}
    succeed(done.run("calibrate", **places, out=tmp_path / "calibration"))
    succeed(done.run("fuse", **places, out=tmp_path / "fused"))
    ends = {row["end"] for row in rows_of(tmp_path / "fused" / "fusion", "segments")}
    assert ends == {"e_ups", "e_ups+mine"}
    succeed(done.run("score", **places, fused=tmp_path / "fused", out=tmp_path / "m", scores=tmp_path / "o"))
    places["params"] = params_with_mine(tmp_path / "params.yaml", systems=["mine"])
    for stage in ("fuse", "calibrate"):
        line = fail(done.run(stage, **places, out=tmp_path / "alone"))
        assert "none of the ends ['mine'] has an instances.parquet" in line
        assert not (tmp_path / "alone").exists()


def test_an_end_may_have_instances_only_but_not_all_ends(done, tmp_path):
    predictions = import_lwl_htc(done, tmp_path, InstancesReader, InstancesWriter, INSTANCES_FILE)
    places = {"params": params_with_mine(tmp_path / "params.yaml", systems=["fusion"]), "predictions": predictions}
    succeed(done.run("evaluate_heldout", **places, out=tmp_path / "routing"))
    succeed(done.run("fuse", **places, routing=tmp_path / "routing", out=tmp_path / "fused"))
    params = params_with_mine(tmp_path / "params.yaml", systems=["mine"])
    line = fail(done.run("fuse", params=params, predictions=predictions, out=tmp_path / "alone"))
    assert "none of the ends ['mine'] has a semantic.parquet" in line
    assert not (tmp_path / "alone").exists()


def test_an_end_whose_semantics_weigh_nothing_is_not_seen_in_them(done, tmp_path):
    choices = {"min_score": 1.0, "semantic_weights": {"e_ups": 0.0, "lwl_htc": 1.0}}
    fused = done.fuse(tmp_path / "fused", "lwl_htc", "fusion", **choices)
    maps = bytes_below(fused / "fusion" / "panoptic")
    assert maps == bytes_below(fused / "lwl_htc" / "panoptic")
    assert maps != bytes_below(done.fuse(tmp_path / "both", "fusion", min_score=1.0) / "fusion" / "panoptic")


def test_doubt_lies_beside_the_maps_where_it_is_asked_for_and_changes_nothing_else(done, tmp_path):
    doubted = done.fuse(tmp_path / "fused", *SYSTEMS, doubt=True)
    for system in SYSTEMS:
        pictures = {path.name: path.read_bytes() for path in (doubted / system / "doubt").iterdir()}
        assert pictures.keys() == {path.name for path in (done.fused / system / "panoptic").iterdir()}
        ids = {
            path.name: decode_segment_ids(path.read_bytes()) for path in (done.fused / system / "panoptic").iterdir()
        }
        for name, png in pictures.items():
            grey = np.array(Image.open(io.BytesIO(png)))
            assert (grey.dtype, grey.shape) == (np.uint8, ids[name].shape)
            assert (grey[ids[name] == 0] == 255).all()
        shutil.rmtree(doubted / system / "doubt")
    assert bytes_below(doubted) == bytes_below(done.fused)
