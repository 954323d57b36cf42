"""What tools write of instances has the AP that pycocotools, or the tool's own evaluator, gives it."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from antvisionps.panoptic.gt_instances import visible_instances
from tests.drawing import draw_box
from tests.evaluation.test_average_precision import evaluate
from tests.interchange.two_masks import HW, thing_names

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


def encode(mask):
    rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle | {"counts": rle["counts"].decode()}


def true_things(dataset):
    """(image, segment, mask) of each."""
    for image in dataset.images:
        ids = dataset.load_segment_ids(image)
        for segment in image.segments:
            if dataset.categories.by_id(segment.category_id).is_thing:
                yield image, segment, ids == segment.segment_id


@pytest.fixture(scope="module")
def truth(dataset):
    """The true things as pycocotools reads them."""
    coco = COCO()
    rows = [
        {
            "id": number,
            "image_id": image.image_id,
            "category_id": segment.category_id,
            "iscrowd": int(segment.is_crowd),
            "area": segment.area_px,
            "bbox": list(segment.bbox_xywh),
            "segmentation": encode(mask),
        }
        for number, (image, segment, mask) in enumerate(true_things(dataset), start=1)
    ]
    coco.dataset = {
        "info": {},
        "images": [{"id": one.image_id, "height": one.height, "width": one.width} for one in dataset.images],
        "annotations": rows,
        "categories": [{"id": one.category_id, "name": one.name} for one in dataset.categories.things],
    }
    coco.createIndex()
    return coco


@pytest.fixture(scope="module")
def boxes(dataset):
    """image_id → (place of its category among things, score, box in x, y, width, height), shifted from the truth; a
    part is of a wrong category."""
    rng = np.random.default_rng(2)
    scores = (1 + rng.permutation(999)) / 1000
    found = {image.image_id: [] for image in dataset.images}
    places = {thing.category_id: place for place, thing in enumerate(dataset.categories.things)}
    for score, (image, segment, _) in zip(scores.tolist(), true_things(dataset), strict=False):
        x, y, width, height = segment.bbox_xywh
        left, top = max(0, x + rng.integers(-2, 3)), max(0, y + rng.integers(-2, 3))
        box = (left, top, min(width, HW[1] - left), min(height, HW[0] - top))
        place = places[segment.category_id] if rng.random() < 0.8 else int(rng.integers(len(places)))
        if min(box[2:]) > 2:
            found[image.image_id].append((place, score, tuple(map(int, box))))
    return found


def tensors(rows):
    """Masks, boxes in x, y, x, y, scores and places, as tools have them."""
    masks = np.array([draw_box(HW, box) for *_, box in rows], dtype=bool).reshape(-1, *HW)
    corners = [[x, y, x + width, y + height] for *_, (x, y, width, height) in rows]
    return {
        "masks": torch.tensor(masks),
        "bboxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in rows], dtype=torch.float32),
        "labels": torch.tensor([place for place, *_ in rows], dtype=torch.long),
    }


def pycocotools_ap(truth, rows):
    """category_id → AP, −1 without truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(rows), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return {key: precision[:, :, place].mean() for place, key in enumerate(evaluation.params.catIds)}


def our_ap(dataset, cached):
    pairs = [
        (cached[image.image_id][0], visible_instances(dataset.load_segment_ids(image), image, dataset.categories))
        for image in dataset.images
    ]
    found = evaluate(pairs, [one.category_id for one in dataset.categories.things])
    return {key: one.ap if one.n_gt else -1 for key, one in found.items()}


def mean_ap(ap_of_category):
    return np.mean([ap for ap in ap_of_category.values() if ap > -1])


def save_json(dataset, boxes, ultralytics):
    """Ultralytics' validator."""
    classes = thing_names(dataset)
    base = ultralytics.models.yolo.segment.SegmentationValidator
    validator = type("Validator", (base,), {"__init__": lambda self: None})()
    validator.jdict, validator.class_map = [], list(range(1, 1 + len(classes)))  # as init_metrics of a set not COCO
    for image in dataset.images:
        found = tensors(boxes[image.image_id])
        found = {
            "bboxes": found["bboxes"],
            "conf": found["scores"],
            "cls": found["labels"],
            "masks": found["masks"].byte(),
        }
        if len(found["cls"]):
            validator.pred_to_json(found, {"im_file": f"/photos/{image.file_name}"})
    Path("predictions.json").write_text(json.dumps(validator.jdict))
    Path("labels.json").write_text(json.dumps(dict(enumerate(classes, start=1))))


def save_txt(dataset, boxes, ultralytics):
    """Ultralytics' Results."""
    for image in dataset.images:
        found = tensors(boxes[image.image_id])
        rows = torch.cat([found["bboxes"], found["scores"][:, None], found["labels"][:, None]], dim=1)
        photo = np.zeros((*HW, 3), np.uint8)
        results = ultralytics.engine.results.Results(
            photo, image.file_name, {}, boxes=rows, masks=found["masks"].byte()
        )
        results.save_txt(f"labels/{Path(image.file_name).stem}.txt", save_conf=True)
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))


def dump(dataset, boxes, ultralytics):
    """mmdet's DumpDetResults."""
    from mmdet.evaluation import DumpDetResults

    metric = DumpDetResults("results.pkl")
    for image in dataset.images:
        sample = {"img_id": image.image_id, "ori_shape": HW, "pred_instances": tensors(boxes[image.image_id])}
        metric.process({}, [sample])
    metric.evaluate(size=len(dataset.images))
    Path("labels.json").write_text(json.dumps(thing_names(dataset)))


def as_results(dataset, boxes):
    """The boxes' masks as pycocotools takes them."""
    return [
        {
            "image_id": image_id,
            "category_id": dataset.categories.things[place].category_id,
            "score": score,
            "segmentation": encode(draw_box(HW, box)),
        }
        for image_id, rows in boxes.items()
        for place, score, box in rows
    ]


@pytest.mark.parametrize("write", [save_json, save_txt, dump], ids=lambda write: write.__name__)
def test_files_of_a_tool_have_the_ap_that_pycocotools_gives_its_masks(
    write, empty, cached, dataset, truth, boxes, ultralytics
):
    write(dataset, boxes, ultralytics)
    theirs = pycocotools_ap(truth, as_results(dataset, boxes))
    assert 0.1 < mean_ap(theirs) < 0.9
    assert our_ap(dataset, cached()) == pytest.approx(theirs, abs=1e-12)


def test_what_mmdets_coco_metric_writes_has_the_ap_that_it_prints(empty, cached, dataset, truth, boxes, tmp_path):
    from mmdet.evaluation import CocoMetric

    (tmp_path / "truth.json").write_text(json.dumps(truth.dataset))
    metric = CocoMetric(ann_file=str(tmp_path / "truth.json"), metric="segm", outfile_prefix="out")
    metric.dataset_meta = {"classes": thing_names(dataset)}
    for image in dataset.images:
        sample = {"img_id": image.image_id, "ori_shape": HW, "pred_instances": tensors(boxes[image.image_id])}
        metric.process({}, [sample])
    printed = metric.evaluate(size=len(dataset.images))["coco/segm_mAP"]
    Path("out.bbox.json").unlink()
    assert printed == pytest.approx(mean_ap(our_ap(dataset, cached())), abs=6e-4)  # it gives three digits


def outlines_of(mask):
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1) + 0.25).tolist() for contour in contours if len(contour) > 2]


def test_polygons_have_the_masks_and_the_ap_of_pycocotools(empty, cached, dataset, truth):
    rng = np.random.default_rng(1)
    rows = []
    for image, segment, mask in true_things(dataset):
        if polygons := outlines_of(np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1))):
            row = {"image_id": image.image_id, "category_id": segment.category_id, "score": round(rng.random(), 3)}
            rows.append(row | {"segmentation": polygons})
    Path("coco_instances_results.json").write_text(json.dumps(rows))
    rows = [row | {"segmentation": truth.annToRLE(row)} for row in rows]
    found = cached()
    for image in dataset.images:
        of_image = sorted((row for row in rows if row["image_id"] == image.image_id), key=lambda row: -row["score"])
        for index, row in enumerate(of_image):
            mask = pycocotools.mask.decode(row["segmentation"])
            np.testing.assert_array_equal(found[image.image_id][0].runs.mask(index), mask)
    assert our_ap(dataset, found) == pytest.approx(pycocotools_ap(truth, rows), abs=1e-12)
    assert len(rows) > 5
