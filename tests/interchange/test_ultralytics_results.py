"""What Writer makes of Ultralytics' Results and supervision's Detections."""

import numpy as np
import pytest
import torch

from antvisionps.core.errors import PredictionsError
from tests.interchange.guide import HEIGHT, WIDTH, category_map, names
from tests.interchange.test_tool_results import MASKS, assert_left_and_right, thing_ids
from tests.interchange.two_masks import HW, LEFT


@pytest.mark.parametrize("input_hw", [HW, (64, 64), (50, 80), (96, 91)])
def test_results_of_ultralytics(written, dataset, ultralytics, input_hw):
    from ultralytics.utils.ops import scale_masks

    generator = torch.Generator().manual_seed(0)
    masks = (torch.nn.functional.avg_pool2d(torch.randn(2, *input_hw, generator=generator), 5, 1, 2) > 0).float()
    boxes = torch.tensor([[4, 8, 34, 28, 0.75, 0], [50, 30, 90, 60, 0.5, 1]])
    model_names = {0: dataset.categories.things[2].name, 1: dataset.categories.things[0].name, 2: "unicorn"}
    photo = np.zeros((*HW, 3), np.uint8)
    result = ultralytics.engine.results.Results(photo, "a.jpg", model_names, boxes=boxes, masks=masks)
    instances, semantics = written([result])
    assert semantics is None
    assert instances.category_ids.tolist() == thing_ids(dataset, 2, 0)
    assert instances.scores.tolist() == [0.75, 0.5]
    scaled = scale_masks(masks[None], HW)[0].numpy()
    for index, expected in enumerate(scaled):
        differ = instances.runs.mask(index) != (expected >= 0.5)
        assert not (differ & (abs(expected - 0.5) > 1e-4)).any()
    nothing = ultralytics.engine.results.Results(photo, "a.jpg", model_names, boxes=boxes[:0])
    assert len(written(nothing)[0]) == 0
    boxes_alone = ultralytics.engine.results.Results(photo, "a.jpg", model_names, boxes=boxes)
    with pytest.raises(PredictionsError, match="boxes without masks; use a model of the task segment"):
        written(boxes_alone)
    turned = ultralytics.engine.results.Results(photo, "a.jpg", model_names, obb=torch.zeros(1, 7))
    with pytest.raises(PredictionsError, match="neither boxes nor masks; use a model of the task segment or semantic"):
        written(turned)


@pytest.mark.parametrize("of_names", [dict, lambda names: list(names.values())], ids=["mapping", "list"])
def test_names_that_are_prompts_are_of_the_prompts_categories(written, dataset, ultralytics, of_names):
    """Of an open-vocabulary model the class index is the prompt's place."""
    import supervision

    first, second = dataset.categories.things[3], dataset.categories.things[0]
    prompts = {"a red one": first.name, "a young one": second.category_id}
    boxes = torch.tensor([[4, 8, 34, 28, 0.75, 0], [50, 30, 90, 60, 0.5, 1]])
    photo, model_names = np.zeros((*HW, 3), np.uint8), of_names(dict(enumerate(prompts)))
    result = ultralytics.engine.results.Results(photo, "a.jpg", model_names, boxes=boxes, masks=torch.tensor(MASKS))
    assert_left_and_right(written(result, prompts)[0], [first.category_id, second.category_id])
    result.names = dict(enumerate(["a red one", second.name]))  # the name of a category needs no prompt
    assert_left_and_right(written(result, prompts)[0], [first.category_id, second.category_id])
    found = {"xyxy": boxes[:, :4].numpy(), "confidence": boxes[:, 4].numpy(), "class_id": np.array([0, 1])}
    detections = supervision.Detections(**found, mask=MASKS, data={"class_name": np.array(list(prompts))})
    assert_left_and_right(written(detections, prompts)[0], [first.category_id, second.category_id])


def test_semantic_results_of_ultralytics(written, dataset, ultralytics):
    photo, classes = np.zeros((*HW, 3), np.uint8), names(dataset)
    labels = np.arange(HEIGHT * WIDTH).reshape(HW) % len(classes)
    labels[:4] = 255  # ignored, as classes=[…] leaves it
    expected = np.where(labels == 255, 0, dataset.categories.category_ids[labels % len(classes)])
    mask = torch.tensor(labels, dtype=torch.uint8)
    result = ultralytics.engine.results.Results(photo, "a.jpg", classes, semantic_mask=mask)
    instances, semantics = written(result)
    assert instances is None
    np.testing.assert_array_equal(category_map(semantics), expected)
    np.testing.assert_array_equal(category_map(written(result, list(classes.values()))[1]), expected)
    stuff = dataset.categories.stuff[0]
    of_one_class = {"names": {0: stuff.name}, "semantic_mask": torch.tensor(LEFT, dtype=torch.uint8)}
    _, semantics = written(ultralytics.engine.results.Results(photo, "a.jpg", **of_one_class))
    np.testing.assert_array_equal(category_map(semantics), np.where(LEFT, stuff.category_id, 0))


def test_detections_of_supervision(written, dataset):
    import supervision

    found = {"xyxy": np.array([[4.0, 8, 34, 28], [50, 30, 90, 60]]), "confidence": np.array([0.75, 0.5])}
    detections = supervision.Detections(**found, mask=MASKS, class_id=np.array([3, 0]))
    instances, _ = written(detections, list(names(dataset).values()))
    assert_left_and_right(instances, thing_ids(dataset, 3, 0))
    detections.data["class_name"] = np.array([dataset.categories.things[index].name for index in (1, 2)])
    assert_left_and_right(written(detections)[0], thing_ids(dataset, 1, 2))
    assert len(written(supervision.Detections.empty())[0]) == 0
    with pytest.raises(PredictionsError, match="no mask; a panoptic map needs masks"):
        written(supervision.Detections(**found, class_id=np.array([3, 0])))
