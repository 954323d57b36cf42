"""A data set whose images have text ids and one of whose things has category id 0, through every stage after prepare.

The same photos with numbers for ids are the oracle: numbers are the only thing that may differ.
"""

import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from antvisionps.cli import main as cli
from antvisionps.core.errors import PredictionsError
from antvisionps.datasets.scenes import CATEGORIES, write_scenes
from antvisionps.inspection.fused import open_fused_maps
from antvisionps.inspection.predictions import open_predictions
from antvisionps.interchange.coco_submission import Submission
from antvisionps.interchange.import_end import export_end, import_end
from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.splits import SplitFiles, dataset_fingerprint, open_split, prepare_coco_panoptic
from antvisionps.predictions.schema import CacheIdentity
from tests.pipeline.test_report import overview_of
from tests.pipeline.workspace import Workspace, bytes_below, succeed, write_caches, write_params

BALL = 3
VAL_IDS = [f"ulm/{number:03d}" for number in range(101, 105)]


def own_id(image_id):
    return f"ulm/{image_id:03d}"


def rename(document):
    for image, row in zip(document["images"], document["annotations"], strict=True):
        image["id"] = row["image_id"] = own_id(image["id"])
        for segment in row["segments_info"]:
            segment["category_id"] *= segment["category_id"] != BALL
    for category in document["categories"]:
        category["id"] *= category["id"] != BALL


def fill(workspace, change):
    source = workspace.root / "mine"
    for split, first, count in (("train", 1, 12), ("val", 101, 4)):
        images = write_scenes(source, seed=3, image_ids=range(first, first + count), height=96, width=128)
        write_panoptic_json(source / f"{split}.json", categories=CATEGORIES, images=images)
        document = json.loads((source / f"{split}.json").read_text())
        change(document)
        (source / f"{split}.json").write_text(json.dumps(document))
    files = {split: SplitFiles(f"{split}.json", "panoptic", "images") for split in ("train", "val")}
    prepare_coco_panoptic(workspace.prepared, root=str(source), **files, heldout_images=8, seed=3)
    write_caches(workspace.prepared, workspace.predictions)
    write_params(workspace.params)
    for stage in ("evaluate_heldout", "calibrate", "fuse", "score", "report"):
        succeed(workspace.run(stage))
    return workspace


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return fill(Workspace(tmp_path_factory.mktemp("numbers") / "data"), lambda document: None)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return fill(Workspace(tmp_path_factory.mktemp("named") / "data"), rename)


@pytest.fixture
def identity(named):
    dataset = open_split(named.prepared, "val")
    return dataset, CacheIdentity("e_ups", "val", dataset_fingerprint(named.prepared), dataset.categories)


def test_every_number_is_that_of_the_same_data_with_numbers_for_ids(numbers, named):
    assert json.loads((named.metrics / "panoptic.json").read_text()) == json.loads(
        (numbers.metrics / "panoptic.json").read_text()
    )
    for system in ("e_ups", "fusion"):
        maps = [bytes_below(one.fused / system / "panoptic") for one in (numbers, named)]
        assert list(maps[0].values()) == list(maps[1].values())
        rules = [json.loads((one.calibration / f"{system}.json").read_text()) for one in (numbers, named)]
        assert rules[0]["heldout_pq"] == rules[1]["heldout_pq"]
        assert len(rules[0]["learned_on_top"]) == len(rules[1]["learned_on_top"])


def test_files_for_others_have_the_own_ids(named, identity):
    fused = json.loads((named.fused / "fusion" / "panoptic.json").read_text())
    assert [row["id"] for row in fused["images"]] == [row["image_id"] for row in fused["annotations"]] == VAL_IDS
    assert 0 in {segment["category_id"] for row in fused["annotations"] for segment in row["segments_info"]}
    counted = pq.read_table(named.scores / "per_image.parquet")
    assert sorted(set(counted["image_id"].to_pylist())) == VAL_IDS
    shown = overview_of(named.root / "report")["images"]
    assert [(number, name) for number, name, *_ in shown] == [
        (place, f"{image_id} (000000000{image_id[-3:]}.png)") for place, image_id in enumerate(VAL_IDS, start=1)
    ]


def test_a_submission_and_an_exported_end_have_the_own_ids_and_come_back(named, identity, tmp_path):
    dataset, who = identity
    folder = named.fused / "fusion"
    fused = read_panoptic(folder / "panoptic.json", images_dir=folder, panoptic_dir=folder / "panoptic")
    written = Submission(fused, test_set="mine", algorithm="ours").write_folder(tmp_path / "submission")
    rows = json.loads((written / "panoptic_mine_ours_results.json").read_text())["annotations"]
    assert [row["image_id"] for row in rows] == VAL_IDS

    cache = named.predictions / "e_ups" / "val"
    export_end(cache, tmp_path / "files", dataset=dataset, identity=who)
    results = json.loads((tmp_path / "files" / "instances.json").read_text())
    assert {row["image_id"] for row in results} <= set(VAL_IDS)
    assert 0 in {row["category_id"] for row in results}
    import_end(tmp_path / "files", tmp_path / "again", dataset=dataset, identity=who)
    with open_predictions(tmp_path / "again") as again, open_predictions(cache) as first:
        for image_id in VAL_IDS:
            assert again[image_id].instance_arrays.rles == first[image_id].instance_arrays.rles
            assert (again[image_id].semantic.class_map == first[image_id].semantic.class_map).all()


def test_panoptic_results_with_own_ids_and_void_keep_category_0_apart_from_void(named, identity, tmp_path):
    dataset, who = identity
    files = tmp_path / "files"
    (files / "panoptic").mkdir(parents=True)
    rows = json.loads(dataset.annotations.read_text())["annotations"]
    for row in rows:
        (files / "panoptic" / row["file_name"]).write_bytes((dataset.panoptic_dir / row["file_name"]).read_bytes())
    (files / "panoptic.json").write_text(json.dumps(rows))
    import_end(files, tmp_path / "cache", dataset=dataset, identity=who)
    with open_predictions(tmp_path / "cache") as cache:
        for image in dataset.images:
            things = [one.area_px for one in image.segments if one.category_id in dataset.categories.thing_ids]
            found = cache[image.source_id].instance_arrays
            assert sorted(found.areas_px.tolist()) == sorted(things)


def test_labels_pngs_may_have_category_0(named, identity, tmp_path):
    dataset, who = identity
    files = tmp_path / "files"
    (files / "semantic").mkdir(parents=True)
    for image in dataset.images:
        ids = dataset.load_segment_ids(image)
        labels = 0 * ids + 255
        for segment in image.segments:
            labels[ids == segment.segment_id] = segment.category_id
        Image.fromarray(labels.astype("uint8")).save(files / "semantic" / image.file_name)
    import_end(files, tmp_path / "cache", dataset=dataset, identity=who)
    with open_predictions(tmp_path / "cache") as cache:
        for image in dataset.images:
            balls = sum(segment.area_px for segment in image.segments if segment.category_id == 0)
            arrays = cache.read("semantic", image.source_id)
            assert (0 in arrays.category_ids) == (balls > 0)
            if balls:
                assert int((arrays.planes[arrays.category_ids.tolist().index(0)] == 255).sum()) == balls


def test_the_inspection_takes_and_shows_the_own_ids(named, capsys):
    def run(*arguments):
        cli.main(["inspect", "--data", str(named.root), "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    assert [row["first image"] for row in run()["splits"]][2] == VAL_IDS[0]
    assert run("fused", "fusion", "--image", VAL_IDS[1])["segments"]
    assert run("instances", "e_ups", "val", "--image", VAL_IDS[1])
    for kind in ("predictions/e_ups/val", "fused/e_ups"):
        other = kind.replace("e_ups", "lwl_htc")
        compared = run("diff", str(named.root / kind), str(named.root / other))
        assert {row["image"] for row in compared["images"]} == set(VAL_IDS)
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--data", str(named.root), "fused", "fusion", "--image", "ulm/101x"])
    assert "no image ulm/101x; its 4 images go from ulm/101 to ulm/104" in capsys.readouterr().err


def test_fused_maps_are_by_their_own_ids(named):
    maps = open_fused_maps(named.fused / "e_ups")
    assert maps.image_ids == [one.image_id for one in maps] == VAL_IDS


def test_an_image_that_a_cache_lacks_is_named(named):
    with open_predictions(named.predictions / "e_ups" / "val") as cache:
        header = cache.header
    assert header.source_id(2) == VAL_IDS[1]
    assert header.source_id(99) == 99


def test_results_of_another_type_of_id_are_told_so(named, identity, tmp_path):
    dataset, who = identity
    export_end(named.predictions / "e_ups" / "val", tmp_path / "files", dataset=dataset, identity=who)
    results = json.loads((tmp_path / "files" / "instances.json").read_text())
    results[0]["image_id"] = 1
    (tmp_path / "files" / "instances.json").write_text(json.dumps(results))
    message = r"result 0: image_id 1 is a number, images have text ids, as 'ulm/101'"
    with pytest.raises(PredictionsError, match=message):
        import_end(tmp_path / "files", tmp_path / "cache", dataset=dataset, identity=who)
