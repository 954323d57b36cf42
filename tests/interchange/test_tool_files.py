"""Files as the tools write them: mmdet's and Ultralytics' own code writes theirs, detectron2's is as it documents."""

import json
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import panopticapi.combine_semantic_and_instance_predictions as combine
import pycocotools.mask
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from antvisionps import Writer, fuse_folders, panoptic_quality
from antvisionps.evaluation.average_precision import class_average_precision, match_image
from antvisionps.interchange.import_end import import_end
from antvisionps.panoptic.gt_instances import visible_instances
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from tests.drawing import draw_box
from tests.interchange.guide import HEIGHT, WIDTH, category_map, imported, names

HW = (HEIGHT, WIDTH)
LEFT, RIGHT = draw_box(HW, (4, 8, 30, 20)), draw_box(HW, (50, 30, 40, 30))
SCORES = [0.75, 0.5]


@pytest.fixture
def empty(folder):
    """An empty folder of predictions, and the current one."""
    for name in ("panoptic", "semantic"):
        (folder / name).rmdir()
    return folder


@pytest.fixture
def cached(empty, dataset, identity):
    """What an import of the folder gives: image_id → instances and semantics."""

    def read():
        for name in ("panoptic", "semantic"):
            (empty / name).mkdir(exist_ok=True)
        return imported(empty, dataset, identity)

    return read


def thing_names(dataset):
    return [category.name for category in dataset.categories.things]


def assert_left_and_right(instances, dataset):
    assert instances.category_ids.tolist() == [dataset.categories.things[place].category_id for place in (1, 3)]
    np.testing.assert_allclose(instances.scores, SCORES, atol=1e-5)
    for index, mask in enumerate((LEFT, RIGHT)):
        np.testing.assert_array_equal(instances.runs.mask(index), mask)


# COCO results.


def outlines_of(mask):
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1) + 0.25).tolist() for contour in contours if len(contour) > 2]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_polygons_have_the_masks_and_the_ap_of_pycocotools(empty, cached, dataset):
    rng = np.random.default_rng(1)
    truth = {"info": {}, "images": [], "annotations": [], "categories": [], "licenses": []}
    truth["categories"] = [{"id": one.category_id, "name": one.name} for one in dataset.categories.things]
    rows = []
    for image in dataset.images:
        truth["images"].append({"id": image.image_id, "height": image.height, "width": image.width})
        gt_ids = dataset.load_segment_ids(image)
        for segment in image.segments:
            if not dataset.categories.by_id(segment.category_id).is_thing:
                continue
            mask = gt_ids == segment.segment_id
            rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            row = {"image_id": image.image_id, "category_id": segment.category_id}
            box = pycocotools.mask.toBbox(rle).tolist()
            true = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": segment.area_px, "bbox": box}
            truth["annotations"].append(row | true | {"segmentation": rle})
            if polygons := outlines_of(np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1))):
                rows.append(row | {"score": round(rng.random(), 3), "segmentation": polygons})
    Path("coco_instances_results.json").write_text(json.dumps(rows))
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    results = coco.loadRes([row | {"segmentation": coco.annToRLE(row)} for row in rows])
    matches = []
    with_masks = cached()
    for image in dataset.images:
        instances, _ = with_masks[image.image_id]
        found = sorted(results.loadAnns(results.getAnnIds(imgIds=[image.image_id])), key=lambda row: -row["score"])
        for index, row in enumerate(found):
            np.testing.assert_array_equal(instances.runs.mask(index), results.annToMask(row))
        gt = visible_instances(dataset.load_segment_ids(image), image, dataset.categories)
        matches.append(match_image(instances, gt))
    evaluation = COCOeval(coco, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    ours = class_average_precision(matches, category_ids=evaluation.params.catIds)
    for position, category_id in enumerate(evaluation.params.catIds):
        expected = precision[:, :, position].mean()
        assert expected == -1 or ours[category_id].ap == pytest.approx(expected, abs=1e-12)
    assert len(rows) > 5


def test_polygons_without_a_pixel_are_a_mask_without_one(empty, cached, dataset):
    row = {"image_id": dataset.images[0].image_id, "category_id": dataset.categories.things[0].category_id, "score": 1}
    Path("instances.json").write_text(json.dumps([row | {"segmentation": [[0, 0, 1, 1, 2, 2], [4, 4]]}]))
    instances, _ = cached()[dataset.images[0].image_id]
    assert instances.areas_px.tolist() == [0]


def test_a_number_that_is_a_photos_name_is_told_by_the_file_name_beside_it(empty, cached, dataset):
    """Ultralytics writes 7 for 0007.jpg, which may be another image's id."""
    first, second = dataset.images[:2]
    rle = pycocotools.mask.encode(np.asfortranarray(LEFT, dtype=np.uint8))
    row = {"image_id": second.image_id, "file_name": Path(first.file_name).name, "score": 1, "segmentation": rle}
    rle["counts"] = rle["counts"].decode()
    Path("predictions.json").write_text(json.dumps([row | {"category_id": dataset.categories.things[0].category_id}]))
    found = cached()
    assert [len(found[image.image_id][0]) for image in dataset.images] == [1, 0, 0, 0]


# Ultralytics.


def prediction():
    boxes = torch.tensor([[4.0, 8, 34, 28], [50, 30, 90, 60]])
    return {
        "bboxes": boxes,
        "conf": torch.tensor(SCORES),
        "cls": torch.tensor([1.0, 3.0]),
        "masks": torch.tensor(np.stack([LEFT, RIGHT]), dtype=torch.uint8),
    }


def test_save_json_of_ultralytics(empty, cached, dataset, ultralytics):
    classes = dict(enumerate(thing_names(dataset)))
    validator = ultralytics.models.yolo.segment.SegmentationValidator
    writer = type("Validator", (validator,), {"__init__": lambda self: None})()
    writer.jdict, writer.class_map = [], [index + 1 for index in classes]  # as init_metrics of a data set not COCO
    for image in dataset.images:
        writer.pred_to_json(prediction(), {"im_file": f"/photos/{image.file_name}"})
    Path("predictions.json").write_text(json.dumps(writer.jdict))
    Path("labels.json").write_text(json.dumps({index + 1: name for index, name in classes.items()}))
    for instances, _ in cached().values():
        assert_left_and_right(instances, dataset)


@pytest.fixture
def save_txt(dataset, ultralytics):
    """Writes files of what was found; one photo has none, as nothing was."""
    return partial(_save_txt, dataset, ultralytics.engine.results.Results)


def _save_txt(dataset, results_class, **how):
    found = prediction()
    for image in dataset.images[1:]:
        boxes = torch.cat([found["bboxes"], found["conf"][:, None], found["cls"][:, None]], dim=1)
        results = results_class(np.zeros((*HW, 3), np.uint8), image.file_name, {}, boxes=boxes, masks=found["masks"])
        results.save_txt(f"labels/{Path(image.file_name).stem}.txt", **how)
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))


def test_save_txt_of_ultralytics(empty, cached, dataset, save_txt):
    save_txt(save_conf=True)
    nothing, *found = cached().values()
    assert len(nothing[0]) == 0
    for instances, semantics in found:
        assert_left_and_right(instances, dataset)
        assert semantics is None


def test_bad_rows_of_save_txt_are_refused(empty, dataset, refuse, save_txt):
    save_txt()
    refuse(empty, r"\.txt: line 1: expected a class, three corners .* with save_conf=True")
    path = empty / "labels" / f"{Path(dataset.images[1].file_name).stem}.txt"
    sound = "1 0.1 0.1 0.5 0.1 0.5 0.5 0.9"
    for text, match in (
        ("1 a 0.1", "line 1: expected numbers, got '1 a 0.1'"),
        (f"{sound}\n\n1 0.1 0.9", "line 3: expected a class"),
        ("99 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "unknown category 99"),
        ("1.5 0.1 0.1 0.5 0.1 0.5 0.5 0.9", "unknown category 1.5"),
        ("1 0.1 0.1 0.5 0.1 0.5 0.5 9", "a score from 0 to 1, got 9.0"),
        ("1 0.1 0.1 0.5 nan 0.5 0.5 0.9", "corners as fractions"),
        ("1 10 10 50 10 50 50 0.9", "corners as fractions"),
        (f"{sound}\n{sound}\n", "the same row twice; save_txt appends"),
        ("\xff".encode("latin1").decode("latin1"), "expected numbers"),
    ):
        path.write_text(text)
        refuse(empty, match)
    path.write_bytes(b"\xff")
    refuse(empty, "cannot be read")
    path.rename(path.with_name("other.txt"))
    refuse(empty, r"other\.txt: no image of this split")


# detectron2: https://detectron2.readthedocs.io/en/latest/modules/evaluation.html, SemSegEvaluator.encode_json_sem_seg.


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


# mmdet's dumps.


def dump(dataset, path, **more):
    """What DumpDetResults writes of instances in both of their kinds and, with `more`, else."""
    from mmdet.evaluation import DumpDetResults

    metric = DumpDetResults(str(path))
    for image in reversed(dataset.images):
        found = prediction()
        instances = {"labels": found["cls"].long(), "scores": found["conf"], "bboxes": found["bboxes"]}
        sample = {"img_id": image.image_id, "ori_shape": HW, "scale_factor": (np.float32(1), np.float64(2))}
        sample["pred_instances"] = instances | {"masks": found["masks"].bool()}
        metric.process({}, [sample | more])
    metric.evaluate(size=len(dataset.images))


def test_a_dump_of_mmdet(empty, cached, dataset):
    dump(dataset, "results.pkl")
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))
    for instances, semantics in cached().values():
        assert_left_and_right(instances, dataset)
        assert semantics is None


@pytest.mark.filterwarnings("ignore:Panoptic segmentation map will not be compressed")
def test_a_dump_with_a_panoptic_map_has_both_kinds(empty, cached, dataset):
    things = len(dataset.categories.things)
    segments = torch.full((1, *HW), len(dataset.categories))  # void
    segments[0, :30] = things + 1
    segments[0, 10:40, 10:40] = 1000 + 1
    dump(dataset, "results.pkl", pred_panoptic_seg={"sem_seg": segments})
    Path("labels.json").write_text(json.dumps(list(names(dataset).values())))
    ids = np.append(dataset.categories.category_ids, 0)
    for instances, semantics in cached().values():
        assert_left_and_right(instances, dataset)
        np.testing.assert_array_equal(category_map(semantics), ids[segments[0].numpy() % 1000])


def test_a_dump_of_mmseg_names_its_photos(empty, cached, dataset):
    labels = torch.arange(HEIGHT * WIDTH).reshape(1, *HW) % len(dataset.categories)
    photos = [f"/data/{image.file_name}" for image in dataset.images]
    Path("out.pkl").write_bytes(pickle.dumps([{"img_path": p, "pred_sem_seg": {"data": labels}} for p in photos]))
    Path("labels.json").write_text(json.dumps(list(names(dataset).values())))
    for instances, semantics in cached().values():
        assert instances is None
        np.testing.assert_array_equal(category_map(semantics), dataset.categories.category_ids[labels[0].numpy()])


def test_bad_dumps_are_refused(empty, dataset, refuse):
    dump(dataset, "results.pkl")
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))
    samples = pickle.loads(Path("results.pkl").read_bytes())
    boxes = [dict(samples[0]["pred_instances"])]
    del boxes[0]["masks"]
    for written, match in (
        (samples[1:], "image .* is missing; every image is needed"),
        ([*samples, samples[0]], "appears twice"),
        ([samples[0] | {"img_id": 77}, *samples[1:]], "sample 0: image_id 77 is not in this split"),
        ([samples[0] | {"pred_instances": boxes[0]}, *samples[1:]], "no masks; a panoptic map needs"),
        ([{"img_id": 1}], r"sample 0: expected one of \['pred_instances'"),
        ({"a": 1}, "expected a list of samples, as DumpDetResults writes them, got a dict"),
        ([1], "a list with other things in it"),
    ):
        Path("results.pkl").write_bytes(pickle.dumps(written))
        refuse(empty, match)
    only = [{name: one[name] for name in ("img_id", "pred_instances")} for one in samples]
    only[0] = {"img_id": only[0]["img_id"], "pred_sem_seg": {"data": torch.ones(1, *HW, dtype=torch.long)}}
    Path("results.pkl").write_bytes(pickle.dumps(only))
    refuse(empty, "give every image the same kinds of predictions")


# Raw queries.


def queries(dataset, image):
    rng = np.random.default_rng(image.image_id)
    return {
        "class_logits": rng.normal(size=(6, len(dataset.categories) + 1)).astype(np.float32),
        "mask_logits": rng.normal(size=(6, 18, 26)).astype(np.float32),
    }


PADDING = {"input_hw": (64, 96), "padded_hw": (72, 104)}


def test_raw_queries_are_what_writer_makes_of_them(empty, dataset, identity, tmp_path):
    (empty / "queries").mkdir()
    labels = list(names(dataset).values())
    Path("labels.json").write_text(json.dumps(labels))
    with Writer("mine", gt=dataset.annotations, to=tmp_path / "written", labels=labels) as writer:
        for image in dataset.images:
            found = queries(dataset, image)
            sides = {name: np.array(side) for name, side in PADDING.items()}
            np.savez(f"queries/{Path(image.file_name).stem}.npz", **found, **sides)
            raw = {"pred_logits": found["class_logits"], "pred_masks": found["mask_logits"]}
            writer.add(image.image_id, raw, **PADDING)
    import_end(empty, tmp_path / "cache", dataset=dataset, identity=identity)
    for name, reader in ((INSTANCES_FILE, InstancesReader), (SEMANTIC_FILE, SemanticReader)):
        with reader(tmp_path / "written" / name) as expected, reader(tmp_path / "cache" / name) as found:
            for one, other in zip(expected, found, strict=True):
                for field in set(type(one).__dataclass_fields__) - {"stored_areas_px", "source"}:
                    np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_bad_query_files_are_refused(empty, dataset, refuse):
    (empty / "queries").mkdir()
    Path("labels.json").write_text(json.dumps(list(names(dataset).values())))
    for image in dataset.images:
        np.savez(f"queries/{Path(image.file_name).stem}.npz", **queries(dataset, image))
    path = empty / "queries" / f"{Path(dataset.images[0].file_name).stem}.npz"
    sound = queries(dataset, dataset.images[0])
    for change, match in (
        ({"class_logits": None}, "it has no class_logits"),
        ({"mask_logits": np.ones((6, 4, 4), int)}, "expected mask_logits of a float type"),
        ({"mask_logits": sound["mask_logits"][:5]}, "expected class logits"),
        ({"class_logits": np.full_like(sound["class_logits"], np.nan)}, "got NaN or infinity"),
        ({"input_hw": [64, 96]}, "expected input_hw and padded_hw together"),
        ({"input_hw": [64], "padded_hw": [72, 104]}, r"expected input_hw \[height, width\]"),
        ({"input_hw": [0, 96], "padded_hw": [72, 104]}, r"expected input_hw \[height, width\]"),
    ):
        np.savez(path, **{name: value for name, value in (sound | change).items() if value is not None})
        refuse(empty, match)
    path.unlink()
    refuse(empty, rf"no {path.stem}\.npz, image .* is missing")


def test_files_of_one_kind_twice_are_refused(empty, refuse):
    twice = (["instances.json", "predictions.json"], ["a.pkl", "instances.json"], ["a.pkl", "b.pkl"])
    for files in (*twice, ["panoptic"], ["panoptic.json"], ["panoptic.json", "panoptic", "labels"]):
        for name in files:
            (empty / name).touch()
        refuse(empty, "the files of another tool that docs/your_own_data.md lists")
        for name in files:
            (empty / name).unlink()
