"""Files of detectron2: its own, and such as it documents.

https://detectron2.readthedocs.io/en/latest/modules/evaluation.html, SemSegEvaluator.encode_json_sem_seg.
"""

import json
from pathlib import Path

import numpy as np
import panopticapi.combine_semantic_and_instance_predictions as combine
import pycocotools.mask
import pytest

from antvisionps import fuse_folders, panoptic_quality
from antvisionps.panoptic.segments import class_index_map
from tests.interchange.guide import HEIGHT, WIDTH, category_map


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
