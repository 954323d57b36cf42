"""Files that detectron2's evaluators wrote have the scores that these gave them; others have their format.

https://detectron2.readthedocs.io/en/latest/modules/evaluation.html
"""

import json
import shutil
from pathlib import Path

import numpy as np
import panopticapi.combine_semantic_and_instance_predictions as combine
import pycocotools.mask
import pytest

from antvisionps import fuse_folders, panoptic_quality
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheIdentity
from antvisionps.predictions.semantic import SemanticReader
from tests.interchange.guide import HEIGHT, WIDTH, category_map
from tests.interchange.test_ap_of_tools import mean_ap, our_ap

WRITTEN = Path(__file__).parent / "written_by_detectron2"
"""See README.md there."""


@pytest.fixture(scope="module")
def scores():
    """What detectron2's evaluators printed, in percent."""
    return json.loads((WRITTEN / "scores.json").read_text())


@pytest.fixture(scope="module")
def its_dataset():
    return read_panoptic(WRITTEN / "val.json", images_dir=WRITTEN, panoptic_dir=WRITTEN / "truth")


@pytest.fixture
def read(its_dataset, tmp_path):
    """What the import of these files gives: image_id → instances or semantics."""

    def import_files(names, cache, reader):
        (tmp_path / "files").mkdir()
        for name in names:
            copy = shutil.copytree if (WRITTEN / name).is_dir() else shutil.copy
            copy(WRITTEN / name, tmp_path / "files" / name)
        identity = CacheIdentity("detectron2", "val", "0" * 64, its_dataset.categories)
        import_end(tmp_path / "files", tmp_path / "cache", dataset=its_dataset, identity=identity)
        with reader(tmp_path / "cache" / cache) as found:
            return {image.image_id: image for image in found}

    return import_files


def test_coco_instances_results_have_the_ap_of_coco_evaluator(read, its_dataset, scores):
    found = read(["coco_instances_results.json"], INSTANCES_FILE, InstancesReader)
    ours = our_ap(its_dataset, {image_id: (instances, None) for image_id, instances in found.items()})
    assert 100 * mean_ap(ours) == pytest.approx(scores["segm"]["AP"])
    for thing in its_dataset.categories.things:
        assert 100 * ours[thing.category_id] == pytest.approx(scores["segm"][f"AP-{thing.name}"])


def test_sem_seg_predictions_have_the_iou_of_sem_seg_evaluator(read, its_dataset, scores):
    """Pixels of things are a class of its own to it, which the importer takes for void."""
    found = read(["sem_seg_predictions.json"], SEMANTIC_FILE, SemanticReader)
    for stuff in its_dataset.categories.stuff:
        in_both = in_either = 0
        for image in its_dataset.images:
            ids = [one.segment_id for one in image.segments if one.category_id == stuff.category_id]
            true = np.isin(its_dataset.load_segment_ids(image), ids)
            predicted = category_map(found[image.image_id]) == stuff.category_id
            in_both, in_either = in_both + (true & predicted).sum(), in_either + (true | predicted).sum()
        assert 100 * in_both / in_either == pytest.approx(scores["sem_seg"][f"IoU-{stuff.name}"])


def test_panoptic_seg_has_the_pq_of_coco_panoptic_evaluator_before_and_after_the_import(tmp_path, scores):
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(WRITTEN / "panoptic.json", files)
    shutil.copytree(WRITTEN / "panoptic", files / "panoptic")
    as_they_are = {"min_score": 0, "min_stuff_area_px": 0}
    fuse_folders({"d2": files}, gt=WRITTEN / "val.json", out=tmp_path / "fused", **as_they_are)
    for folder in (files, tmp_path / "fused"):
        found = panoptic_quality(
            (WRITTEN / "val.json", WRITTEN / "truth"), (folder / "panoptic.json", folder / "panoptic")
        )
        ours = [100 * group.pq for group in (found.all, found.things, found.stuff)]
        assert ours == pytest.approx([scores["panoptic_seg"][key] for key in ("PQ", "PQ_th", "PQ_st")])


def sem_seg_rows(class_map, file_name, ids):
    for index in np.unique(class_map).tolist():
        if index in ids:
            rle = pycocotools.mask.encode(np.asfortranarray(class_map == index, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode()
            yield {"file_name": file_name, "category_id": ids[index], "segmentation": rle}


def write_sem_seg(dataset, ids):
    rows = []
    for image in dataset.images:
        class_map = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
        rows += sem_seg_rows(class_map, f"datasets/photos/{image.file_name}", ids)
    Path("sem_seg_predictions.json").write_text(json.dumps(rows))
    return rows


def test_sem_seg_predictions_of_detectron2(empty, cached, dataset):
    ids = dict(enumerate(dataset.categories.category_ids.tolist()))
    write_sem_seg(dataset, ids)
    found = cached()
    for image in dataset.images:
        class_map = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
        expected = np.array([*ids.values(), *[0] * (256 - len(ids))])[class_map]
        instances, semantics = found[image.image_id]
        assert instances is None
        np.testing.assert_array_equal(category_map(semantics), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_files_of_detectron2_have_the_pq_that_panopticapi_gives_them(
    empty, dataset, exported, tmp_path, panopticapi_pq
):
    instances = json.loads((exported / "instances.json").read_text())
    Path("coco_instances_results.json").write_text(json.dumps(instances))
    ids = dict(enumerate(dataset.categories.category_ids.tolist()))
    semantics = []
    for image in dataset.images:
        class_map = class_index_map(dataset.load_segment_ids(image), image, dataset.categories)
        semantics += sem_seg_rows(np.roll(class_map, (5, 7), axis=(0, 1)), image.file_name, ids)
    Path("sem_seg_predictions.json").write_text(json.dumps(semantics))
    truth = (dataset.annotations, dataset.panoptic_dir)
    fuse_folders({"mine": empty}, gt=truth[0], gt_maps=truth[1], out=tmp_path / "fused", min_stuff_area_px=64)
    ours = panoptic_quality(truth, (tmp_path / "fused" / "panoptic.json", tmp_path / "fused" / "panoptic"))

    (tmp_path / "theirs").mkdir()
    stuff = [row for row in semantics if not dataset.categories.by_id(row["category_id"]).is_thing]
    annotations = combine.combine_to_panoptic_single_core(
        0,
        [image.image_id for image in dataset.images],
        {image.image_id: {"height": HEIGHT, "width": WIDTH, "file_name": image.file_name} for image in dataset.images},
        {
            image.image_id: [row for row in instances if row["image_id"] == image.image_id and row["score"] >= 0.5]
            for image in dataset.images
        },
        {image.image_id: [row for row in stuff if row["file_name"] == image.file_name] for image in dataset.images},
        str(tmp_path / "theirs"),
        0.5,
        64,
        {row["id"]: row for row in dataset.categories.to_json()},
    )
    (tmp_path / "theirs.json").write_text(json.dumps({"annotations": annotations}))
    theirs = panopticapi_pq(str(truth[0]), str(tmp_path / "theirs.json"), str(truth[1]), str(tmp_path / "theirs"))
    assert 0 < theirs["Things"]["pq"] < 1
    assert 0 < theirs["Stuff"]["pq"] < 1
    assert [ours.all.pq, ours.things.pq, ours.stuff.pq] == pytest.approx(
        [theirs[group]["pq"] for group in ("All", "Things", "Stuff")], abs=1e-12
    )


def test_bad_sem_seg_predictions_are_refused(empty, dataset, refuse):
    rows = write_sem_seg(dataset, dict(enumerate(dataset.categories.category_ids.tolist())))
    for change, match in (
        ({"file_name": "datasets/other.jpg"}, "result 0: 'datasets/other.jpg' is no photo of this split"),
        ({"file_name": 3}, "result 0: '3' is no photo"),
        ({"category_id": 99}, "unknown category 99"),
        ({"segmentation": rows[1]["segmentation"]}, "image .*: a pixel of two categories"),
        ({"segmentation": {"size": [2, 3], "counts": [6]}}, "got 2 x 3"),
    ):
        Path("sem_seg_predictions.json").write_text(json.dumps([rows[0] | change, *rows[1:]]))
        refuse(empty, match)
    last = Path(dataset.images[-1].file_name).name
    Path("sem_seg_predictions.json").write_text(json.dumps([row for row in rows if last not in row["file_name"]]))
    refuse(empty, f"image {dataset.images[-1].image_id} is missing")
