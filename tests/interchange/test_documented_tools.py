"""The snippets of docs/your_own_data.md with the tools themselves: what they write is imported as they mean it.

Those of Transformers are in test_transformers.py.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panopticapi.utils
import pycocotools.mask
import pytest
import torch
from PIL import Image

from tests.interchange.guide import GUIDE, HEIGHT, SNIPPETS, WIDTH, category_map, imported, snippet

# MMDetection and MMSegmentation: their metrics write the files.


def classes_by_id(dataset):
    """In ascending id: the order in which mmdet numbers the categories of a JSON."""
    return sorted(dataset.categories.categories, key=lambda category: category.category_id)


def build_metric(registry, text, dataset, **changes):
    scope = {}
    exec(snippet(text), scope)
    of_this_library = {"_scope_": registry.scope}  # whatever library another test made the default
    metric = registry.build(scope["test_evaluator"] | changes | of_this_library)
    things = [category.name for category in classes_by_id(dataset) if category.is_thing]
    metric.dataset_meta = {"classes": [category.name for category in classes_by_id(dataset)], "thing_classes": things}
    return metric


def test_what_mmdet_writes_of_instances_is_imported(folder, dataset, identity):
    import mmdet.evaluation  # noqa: F401
    from mmdet.registry import METRICS

    things = [category for category in classes_by_id(dataset) if category.is_thing]
    rows = [{"id": category.category_id, "name": category.name} for category in things]
    described = {"images": [], "annotations": [], "categories": rows}
    (folder.parent / "instances.json").write_text(json.dumps(described))
    metric = build_metric(METRICS, '"CocoMetric"', dataset, ann_file=str(folder.parent / "instances.json"))
    metric.dataset_meta["classes"] = [category.name for category in things]
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 4:20, 8:40] = masks[1, 30:50, 10:33] = True
    found = {"masks": masks, "bboxes": torch.tensor([[8.0, 4, 40, 20], [10, 30, 33, 50]])}
    found |= {"scores": torch.tensor([0.75, 0.5]), "labels": torch.tensor([1, 3])}
    for image in dataset.images:
        metric.process({}, [{"img_id": image.image_id, "ori_shape": (HEIGHT, WIDTH), "pred_instances": dict(found)}])
    metric.evaluate(size=len(dataset.images))
    Path("out.segm.json").rename("instances.json")
    Path("out.bbox.json").unlink()
    for instances, _ in imported(folder, dataset, identity).values():
        assert instances.category_ids.tolist() == [things[1].category_id, things[3].category_id]
        assert instances.scores.tolist() == [0.75, 0.5]
        assert instances.boxes_xywh.tolist() == [[8, 4, 32, 16], [10, 30, 23, 20]]
        for index, mask in enumerate(masks.numpy()):
            np.testing.assert_array_equal(instances.runs.mask(index), mask)


def test_boxes_of_mmdet_are_no_masks(empty, dataset, refuse):
    row = {"image_id": dataset.images[0].image_id, "bbox": [8, 4, 32, 16], "score": 0.75, "category_id": 3}
    (empty / "instances.json").write_text(json.dumps([row]))
    refuse(empty, "got a box alone")


def test_what_mmdet_writes_of_panoptic_results_is_imported(folder, dataset, prepared, identity):
    import mmdet.evaluation  # noqa: F401
    from mmdet.registry import METRICS

    metric = build_metric(METRICS, '"CocoPanopticMetric"', dataset, ann_file=str(prepared / "val.json"))
    classes = classes_by_id(dataset)
    ball, grass = (next(i for i, c in enumerate(classes) if c.name == name) for name in ("ball", "grass"))
    segments = torch.full((1, HEIGHT, WIDTH), len(classes))  # void
    segments[0, :30] = grass
    segments[0, 10:40, 10:40] = ball + 1000
    segments[0, 10:40, 50:90] = ball + 2000
    for image in dataset.images:
        sample = {"img_id": image.image_id, "img_path": image.file_name, "ori_shape": (HEIGHT, WIDTH)}
        metric.process({}, [sample | {"pred_panoptic_seg": {"sem_seg": segments.clone()}}])
    metric.evaluate(size=len(dataset.images))
    (folder / "panoptic").rmdir()
    Path("out.panoptic.json").rename("panoptic.json")
    Path("out.panoptic").rename("panoptic")
    expected = np.array([category.category_id for category in classes] + [0])[segments[0].numpy() % 1000]
    for instances, semantics in imported(folder, dataset, identity).values():
        np.testing.assert_array_equal(category_map(semantics), expected)
        assert sorted(instances.areas_px.tolist()) == [900, 1200]


@pytest.mark.parametrize("reduce_zero_label", [False, True])
def test_labels_of_mmsegmentation_are_imported(folder, dataset, identity, reduce_zero_label):
    import mmseg.evaluation  # noqa: F401
    from mmseg.registry import METRICS

    metric = build_metric(METRICS, '"IoUMetric"', dataset)
    labels = torch.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH) % len(dataset.categories)
    sample = {"pred_sem_seg": {"data": labels}, "reduce_zero_label": reduce_zero_label}
    for image in dataset.images:
        metric.process({}, [sample | {"img_path": f"photos/{image.file_name}"}])
    scope = {"json": json, "Path": Path, "model": SimpleNamespace(dataset_meta=metric.dataset_meta)}
    exec(snippet("dataset_meta"), scope)
    if reduce_zero_label:
        (told,) = re.findall(r"^`({i \+ 1: .*dataset_meta.*})`\.$", GUIDE, re.MULTILINE)
        Path("labels.json").write_text(json.dumps(eval(told, scope)))
    by_id = np.array([category.category_id for category in classes_by_id(dataset)])
    for _, semantics in imported(folder, dataset, identity).values():
        np.testing.assert_array_equal(category_map(semantics), by_id[labels[0].numpy()])


# pycocotools, numpy and panopticapi.


def test_results_that_pycocotools_encodes_are_imported(folder, dataset, identity):
    rng = np.random.default_rng(0)
    masks, rows = {}, []
    for image in dataset.images:
        masks[image.image_id] = rng.random((HEIGHT, WIDTH)) < 0.3
        scope = {"np": np, "pycocotools": pycocotools, "rows": rows, "mask": masks[image.image_id], "score": 0.25}
        exec(snippet("pycocotools.mask.encode"), scope | {"image_id": image.image_id, "category_id": 3})
    (folder / "instances.json").write_text(json.dumps(rows))
    for image_id, (instances, _) in imported(folder, dataset, identity).items():
        assert (instances.category_ids.tolist(), instances.scores.tolist()) == ([3], [0.25])
        np.testing.assert_array_equal(instances.runs.mask(0), masks[image_id])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.uint8], ids=str)
def test_probabilities_that_numpy_saves_are_imported(folder, dataset, identity, dtype):
    planes = np.random.default_rng(0).integers(0, 256, (2, 16, 24), np.uint8)
    probs = planes if dtype is np.uint8 else (planes / 255).astype(dtype)
    for image in dataset.images:
        scope = {"np": np, "probs": probs, "category_ids": [5, 2], "photo": Path(image.file_name)}
        exec(snippet("savez_compressed"), scope)
    for _, semantics in imported(folder, dataset, identity).values():
        assert semantics.category_ids.tolist() == [5, 2]
        np.testing.assert_array_equal(semantics.planes, planes)


def test_maps_that_panopticapi_colours_are_imported(folder, dataset, identity):
    segment_ids = np.zeros((HEIGHT, WIDTH), np.uint32)
    segment_ids[:30], segment_ids[40:, :50] = 70_000, 3
    rows = []
    for image in dataset.images:
        segments = [{"id": 70_000, "category_id": 2}, {"id": 3, "category_id": 34}]
        scope = {"Image": Image, "panopticapi": panopticapi, "rows": rows, "image_id": image.image_id}
        scope |= {"segment_ids": segment_ids, "segments": segments, "photo": Path(image.file_name)}
        exec(snippet("id2rgb"), scope)
    (folder / "panoptic.json").write_text(json.dumps(rows))
    expected = np.select([segment_ids == 70_000, segment_ids == 3], [2, 34], 0)
    for instances, semantics in imported(folder, dataset, identity).values():
        np.testing.assert_array_equal(category_map(semantics), expected)
        assert instances.category_ids.tolist() == [34]


def test_every_snippet_of_the_guide_is_run():
    """Each by a test here or of Transformers: a snippet that is new to the guide has no test yet."""
    source = "".join(
        Path(__file__).with_name(name).read_text() for name in (Path(__file__).name, "test_transformers.py")
    )
    used = re.findall(r"snippet\((?:\"([^\"]+)\"|'([^']+)')\)|build_metric\(METRICS, '([^']+)'", source)
    texts = {"".join(groups) for groups in used}
    assert {snippet(text) for text in texts} == set(SNIPPETS)
