"""Two boxes that tools are made to predict in every image, as the second and the fourth kind of thing."""

import numpy as np
import torch

from tests.drawing import draw_box
from tests.interchange.guide import HEIGHT, WIDTH

HW = (HEIGHT, WIDTH)
LEFT, RIGHT = draw_box(HW, (4, 8, 30, 20)), draw_box(HW, (50, 30, 40, 30))
SCORES = [0.75, 0.5]


def thing_names(dataset):
    return [category.name for category in dataset.categories.things]


def assert_left_and_right(instances, dataset):
    assert instances.category_ids.tolist() == [dataset.categories.things[place].category_id for place in (1, 3)]
    np.testing.assert_allclose(instances.scores, SCORES, atol=1e-5)
    for index, mask in enumerate((LEFT, RIGHT)):
        np.testing.assert_array_equal(instances.runs.mask(index), mask)


def prediction():
    boxes = torch.tensor([[4.0, 8, 34, 28], [50, 30, 90, 60]])
    return {
        "bboxes": boxes,
        "conf": torch.tensor(SCORES),
        "cls": torch.tensor([1.0, 3.0]),
        "masks": torch.tensor(np.stack([LEFT, RIGHT]), dtype=torch.uint8),
    }
