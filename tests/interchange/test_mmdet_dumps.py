"""Pickles that mmdet's DumpDetResults and mmengine's DumpResults write."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.interchange.guide import category_map, names
from tests.interchange.two_masks import HW, assert_left_and_right, prediction, thing_names


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
    labels = torch.arange(HW[0] * HW[1]).reshape(1, *HW) % len(dataset.categories)
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
