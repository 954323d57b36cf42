from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from antvisionps.models.resizing import resized_hw
from antvisionps.models.training_data import SampleOrder, TrainingSamples, make_sample

AUGMENTATION = {"short_sides_px": (48, 64), "max_long_side_px": 96, "flip": True, "photometric": 0.2}


def test_an_epoch_has_every_image_once_and_epochs_differ():
    order = list(islice(SampleOrder(num_images=5, seed=3), 15))
    epochs = [[image for _, image in order[start : start + 5]] for start in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert epochs[0] != epochs[1]
    assert [number for number, _ in order] == list(range(15))


@pytest.mark.parametrize("skipped", [0, 3, 5, 12])
def test_skipping_goes_on_where_an_interrupted_run_stopped(skipped):
    whole = list(islice(SampleOrder(num_images=5, seed=3), 20))
    resumed = SampleOrder(num_images=5, seed=3)
    resumed.skip(skipped)
    assert list(islice(resumed, 20 - skipped)) == whole[skipped:]


def test_a_sample_depends_on_the_seed_and_its_number_alone(dataset):
    first = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    again = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    first[0, 1]
    assert torch.equal(first[7, 0]["inputs"], again[7, 0]["inputs"])
    assert not torch.equal(again[7, 0]["inputs"].float().mean(), again[8, 0]["inputs"].float().mean())


def test_boxes_fit_masks_and_semantics_whatever_the_augmentation(dataset):
    samples = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    categories = dataset.categories
    mirrored = 0
    for number in range(8):
        sample = samples[number, 0]["data_samples"]
        masks = torch.from_numpy(sample.gt_instances.masks.masks)
        tight = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(sample.gt_instances.bboxes, tight)
        semantic = sample.gt_sem_seg.sem_seg[0]
        for mask, label in zip(masks, sample.gt_instances.labels, strict=True):
            assert (semantic[mask.bool()] == label).all()
        assert [categories.categories[label].name for label in sample.gt_instances.labels] == ["box", "crowd of boxes"]
        assert (semantic == 255).any()
        mirrored += int(sample.gt_instances.bboxes[0, 0] > sample.gt_instances.bboxes[1, 0])
    assert 0 < mirrored < 8


def test_a_crowd_is_ignored_and_keeps_its_semantic_class(dataset):
    image = dataset.images[0]
    made = make_sample(
        dataset.load_photo(image), dataset.load_segment_ids(image), image=image, categories=dataset.categories
    )
    sample = made["data_samples"]
    assert sample.ignored_instances.bboxes.tolist() == [[50.0, 2.0, 76.0, 12.0]]
    assert len(sample.gt_instances) == 2
    assert sample.gt_sem_seg.sem_seg[0, 5, 60] == dataset.categories.class_index(9)


def test_pictures_without_things_or_truth_give_empty_instances(dataset):
    for position, void in ((1, False), (2, True)):
        image = dataset.images[position]
        made = make_sample(
            dataset.load_photo(image), dataset.load_segment_ids(image), image=image, categories=dataset.categories
        )
        assert made["data_samples"].gt_instances.bboxes.shape == (0, 4)
        assert bool((made["data_samples"].gt_sem_seg.sem_seg == 255).all()) == void


@pytest.mark.parametrize(
    ("hw", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((400, 1200), (444, 1333)), ((3, 900), (4, 1333))],
)
def test_the_short_side_is_met_unless_the_long_one_would_pass_its_limit(hw, expected):
    assert resized_hw(hw, short_side_px=800, max_long_side_px=1333) == expected


def test_without_augmentation_the_photo_is_as_it_is(dataset):
    samples = TrainingSamples(dataset, seed=1, short_sides_px=(64,), max_long_side_px=96, flip=False, photometric=0.0)
    photo = dataset.load_photo(dataset.images[1])
    assert np.array_equal(samples[4, 1]["inputs"].numpy(), photo.transpose(2, 0, 1))
