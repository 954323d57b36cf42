"""What is missing, broken or of something else is one line that names it, and nothing is written."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from tests.pipeline.workspace import fail, write_params


@pytest.mark.parametrize(
    ("stage", "missing", "message"),
    [
        ("evaluate_heldout", "predictions", "e_ups/heldout: neither instances.parquet nor"),
        ("calibrate", "routing", "no readable routing table"),
        ("fuse", "routing", "no readable routing table"),
        ("fuse", "predictions", "e_ups/val: neither instances.parquet nor"),
        ("fuse", "calibration", "no readable calibration"),
        ("score", "fused", "no readable COCO panoptic JSON"),
        ("score", "routing", "no readable routing table"),
        ("report", "calibration", "no readable calibration"),
        ("report", "metrics", "no readable summary (no such file); run `dvc repro score`"),
    ],
)
def test_what_is_missing_is_named(done, tmp_path, stage, missing, message):
    params = write_params(tmp_path / "params.yaml", calibrated=missing == "calibration")
    places = {"params": params, missing: tmp_path / "nowhere", "out": tmp_path / "x"}
    assert message in fail(done.run(stage, **places))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_cache_is_one_line_and_leaves_nothing(done, tmp_path, workers):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    cache = predictions / "e_ups" / "val" / SEMANTIC_FILE
    cache.write_bytes(cache.read_bytes()[:-100])
    params = write_params(tmp_path / "params.yaml", workers=workers)
    out = tmp_path / "out" / "fused"
    line = fail(done.run("fuse", params=params, predictions=predictions, out=out))
    assert str(cache) in line
    assert "not a whole Parquet file" in line
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("split", "stage"), [("heldout", "evaluate_heldout"), ("heldout", "calibrate"), ("val", "fuse"), ("val", "report")]
)
@pytest.mark.parametrize("name", [INSTANCES_FILE, SEMANTIC_FILE])
def test_an_end_that_lacks_a_file_that_it_should_have_is_told(done, tmp_path, split, stage, name):
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    for spoiled in ([split], ["heldout", "val"]):  # of one split, then of both
        for of_split in spoiled:
            (predictions / "e_ups" / of_split / name).unlink(missing_ok=True)
        line = fail(done.run(stage, predictions=predictions, out=tmp_path / "x"))
        assert f"e_ups/{split}/{name}: no such file, but e_ups " in line
        assert "run `dvc repro` to predict again" in line
        assert not (tmp_path / "x").exists()


def spoil_best_masks(path):
    """Gives each image's best instance the mask of an image that is a row taller; returns the first image of any."""
    table = pq.read_table(path)
    image_ids, height, width = table["image_id"].to_pylist(), table["height"][0].as_py(), table["width"][0].as_py()
    taller = encode_masks(np.ones((1, height + 1, width), bool))[0]
    rles = table["rle"].to_pylist()
    for image_id in set(image_ids):
        rles[image_ids.index(image_id)] = taller
    column = table.schema.get_field_index("rle")
    changed = table.set_column(column, table.schema.field(column), [rles])
    metadata = pq.ParquetFile(path).metadata.metadata
    metadata.pop(b"ARROW:schema")
    pq.write_table(changed.replace_schema_metadata(metadata), path)
    return image_ids[0]


@pytest.mark.parametrize(
    ("split", "stage"), [("heldout", "evaluate_heldout"), ("heldout", "calibrate"), ("val", "fuse"), ("val", "score")]
)
def test_masks_of_another_size_are_told_by_file_image_and_remedy(done, tmp_path, split, stage):
    """pycocotools never comes back from some of them."""
    predictions = shutil.copytree(done.predictions, tmp_path / "predictions")
    path = predictions / "e_ups" / split / INSTANCES_FILE
    image_id = spoil_best_masks(path)
    line = fail(done.run(stage, predictions=predictions, out=tmp_path / "x"))
    assert line.startswith(f"error: {path}: image {image_id} of 96 x 128 px: mask 0: RLE of another size: ")
    assert "dvc repro" in line
    assert not (tmp_path / "x").exists()


def test_score_refuses_runs_that_are_missing_or_of_another_map_and_maps_of_other_images(done, tmp_path):
    fused = shutil.copytree(done.fused, tmp_path / "fused")
    places = {"fused": fused, "out": tmp_path / "metrics", "scores": tmp_path / "scores"}
    (fused / "fusion" / "runs.parquet").unlink()
    assert "no such file; run `dvc repro fuse`" in fail(done.run("score", **places))
    shutil.copy(fused / "e_ups" / "runs.parquet", fused / "fusion")
    assert "other segments than its annotation lists; run `dvc repro fuse`" in fail(done.run("score", **places))
    path = fused / "e_ups" / "panoptic.json"
    document = json.loads(path.read_text())
    document["images"], document["annotations"] = document["images"][1:], document["annotations"][1:]
    path.write_text(json.dumps(document))
    assert "expected the images of" in fail(done.run("score", **places))
    assert not (tmp_path / "metrics").exists()
