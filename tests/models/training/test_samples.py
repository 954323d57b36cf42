import os
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader
from torchvision.ops import masks_to_boxes

from antvisionps.models.blocks.resizing import resized_hw
from antvisionps.models.e_ups.panoptic_loss import panoptic_truth
from antvisionps.models.training.samples import SampleOrder, TrainingSamples
from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import encode_masks
from tests.models.conftest import AUGMENTATION as AS_THEY_ARE

AUGMENTATION = {"short_sides_px": (48, 64), "max_long_side_px": 96, "flip": True, "photometric": 0.2}


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_an_epoch_has_every_image_once_epochs_differ_and_skipping_goes_on_where_a_run_stopped(batch_size):
    aspects = [1.5, 0.75, 0.66, 1.33, 1.0]
    order = list(islice(SampleOrder(aspects, seed=3, batch_size=batch_size), 15))
    epochs = [[image for _, image in order[start : start + 5]] for start in (0, 5, 10)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4]] * 3
    assert epochs[0] != epochs[1]
    assert [number for number, _ in order] == list(range(15))
    for skipped in (0, 3, 5, 12):
        resumed = SampleOrder(aspects, seed=3, batch_size=batch_size)
        resumed.skip(skipped)
        assert list(islice(resumed, 15 - skipped)) == order[skipped:]


def batches_of(aspects, batch_size, *, count):
    order = SampleOrder(aspects, seed=3, batch_size=batch_size)
    images = [image for _, image in islice(order, count * batch_size)]
    return [images[first : first + batch_size] for first in range(0, len(images), batch_size)]


def mixed_batches(aspects, batch_size, *, count):
    return sum(len({aspects[image] for image in batch}) > 1 for batch in batches_of(aspects, batch_size, count=count))


def test_batches_hold_one_orientation_but_where_orientations_or_epochs_meet():
    aspects = [0.75, 1.33] * 50
    assert mixed_batches(aspects, 5, count=20) <= 2  # an epoch of 20 batches is sorted in two parts
    # Seven epochs of 100 images, each sorted in one part, and six batches that two of them share.
    assert mixed_batches(aspects, 7, count=100) <= 7 + 6


def test_images_of_one_shape_stay_as_they_are_shuffled_and_batches_stand_where_their_first_image_stood():
    shuffled = np.random.default_rng((3, 0)).permutation(60).tolist()
    assert list(chain(*batches_of([0.75] * 60, 4, count=15))) == shuffled
    aspects = np.random.default_rng(0).choice([0.66, 0.75, 1.0, 1.33], 60)
    first_places = [min(shuffled.index(image) for image in batch) for batch in batches_of(aspects, 4, count=15)]
    assert first_places == sorted(first_places)


def test_the_images_of_a_batch_have_one_short_side_and_batches_differ(dataset):
    samples = TrainingSamples(dataset, seed=1, batch_size=3, **AUGMENTATION)
    shapes = [tuple(samples[number, number % 3]["inputs"].shape) for number in range(24)]
    batches = [set(shapes[first : first + 3]) for first in range(0, 24, 3)]
    assert all(len(batch) == 1 for batch in batches)
    assert set.union(*batches) == {(3, 48, 60), (3, 64, 80)}


def test_processes_share_out_a_batch_of_many_shapes_by_shape():
    aspects = np.random.default_rng(0).uniform(0.5, 2.0, 64)
    whole = list(islice(SampleOrder(aspects, seed=3, batch_size=8), 64))
    shares = [list(islice(SampleOrder(aspects, seed=3, batch_size=2, rank=rank, processes=4), 16)) for rank in range(4)]
    assert sorted(chain(*shares)) == whole
    for first in range(0, 16, 2):
        of_processes = [aspects[image] for share in shares for _, image in share[first : first + 2]]
        assert of_processes == sorted(of_processes)


def test_a_sample_depends_on_the_seed_and_its_number_alone(dataset):
    first = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    again = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    first[0, 1]
    assert torch.equal(first[7, 0]["inputs"], again[7, 0]["inputs"])
    assert not torch.equal(again[7, 0]["inputs"].float().mean(), again[8, 0]["inputs"].float().mean())


def test_boxes_fit_masks_and_semantics_whatever_the_augmentation(dataset):
    samples = TrainingSamples(dataset, seed=1, **AUGMENTATION)
    mirrored = 0
    for number in range(8):
        sample = samples[number, 0]["data_samples"]
        masks = torch.from_numpy(sample.gt_instances.masks.masks)
        tight = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(sample.gt_instances.bboxes, tight)
        semantic = sample.gt_sem_seg.sem_seg[0]
        for mask, label in zip(masks, sample.gt_instances.labels, strict=True):
            assert (semantic[mask.bool()] == label).all()
        assert [dataset.categories.categories[label].category_id for label in sample.gt_instances.labels] == [5, 9]
        assert (semantic == 255).any()
        mirrored += int(sample.gt_instances.bboxes[0, 0] > sample.gt_instances.bboxes[1, 0])
    assert 0 < mirrored < 8


def test_a_crowd_is_ignored_and_keeps_its_semantic_class(dataset):
    sample = TrainingSamples(dataset, seed=0, **AS_THEY_ARE)[0, 0]["data_samples"]
    assert sample.ignored_instances.bboxes.tolist() == [[50.0, 2.0, 76.0, 12.0]]
    assert len(sample.gt_instances) == 2
    assert sample.gt_sem_seg.sem_seg[0, 5, 60] == dataset.categories.class_index(9)


@pytest.mark.parametrize(
    ("hw", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((400, 1200), (444, 1333)), ((3, 900), (4, 1333))],
)
def test_the_short_side_is_met_unless_the_long_one_would_pass_its_limit(hw, expected):
    assert resized_hw(hw, short_side_px=800, max_long_side_px=1333) == expected


def test_without_augmentation_the_photo_is_as_it_is(dataset):
    samples = TrainingSamples(dataset, seed=1, **AS_THEY_ARE)
    photo = dataset.load_photo(dataset.images[1])
    assert np.array_equal(samples[4, 1]["inputs"].numpy(), photo.transpose(2, 0, 1))


@pytest.fixture
def annotated(dataset, tmp_path):
    """The same pictures with annotated instances: on image 1 a box that reaches behind another one, and a crowd."""
    masks = np.zeros((3, 64, 80), dtype=bool)
    masks[0, 8:28, 6:60], masks[1, 20:60, 40:64], masks[2, 2:12, 50:76] = True, True, True
    of_image = GtInstances(np.array([5, 9, 9]), encode_masks(masks), np.array([False, False, True]))
    none = GtInstances(np.zeros(0, int), [], np.zeros(0, bool))
    path = tmp_path / "instances.parquet"
    write_gt_instances(path, [(1, of_image), (2, none), (3, none)])
    return replace(dataset, instances=path), masks


def test_annotated_instances_take_the_place_of_the_maps_things_and_may_overlap(annotated):
    dataset, masks = annotated
    samples = TrainingSamples(dataset, seed=1, **AS_THEY_ARE)
    sample = samples[0, 0]["data_samples"]
    assert np.array_equal(sample.gt_instances.masks.masks, masks[:2])
    assert sample.gt_instances.bboxes.tolist() == [[6, 8, 60, 28], [40, 20, 64, 60]]
    assert [dataset.categories.categories[label].category_id for label in sample.gt_instances.labels] == [5, 9]
    assert sample.ignored_instances.bboxes.tolist() == [[50, 2, 76, 12]]
    assert samples[0, 1]["data_samples"].gt_instances.bboxes.shape == (0, 4)
    assert (samples[0, 2]["data_samples"].gt_sem_seg.sem_seg == 255).all()


def test_annotated_masks_are_resized_and_mirrored_as_the_map(annotated):
    dataset, masks = annotated
    samples = TrainingSamples(dataset, seed=1, short_sides_px=(48,), max_long_side_px=96, flip=True, photometric=0.0)
    resized = np.stack([cv2.resize(m.view(np.uint8), (60, 48), interpolation=cv2.INTER_NEAREST_EXACT) for m in masks])
    mirrored = 0
    for number in range(8):
        sample = samples[number, 0]["data_samples"]
        found = sample.gt_instances.masks.masks
        is_mirrored = not np.array_equal(found, resized[:2])
        assert np.array_equal(found, resized[:2, :, ::-1] if is_mirrored else resized[:2])
        mirrored += is_mirrored
    assert 0 < mirrored < 8


def test_loading_processes_read_the_same_instances(annotated):
    samples = TrainingSamples(annotated[0], seed=1, **AUGMENTATION)
    order = [[(number, 0)] for number in range(4)]
    loader = DataLoader(samples, batch_sampler=order, num_workers=2, collate_fn=pseudo_collate)
    for (key,), batch in zip(order, loader, strict=True):
        here = samples[key]["data_samples"].gt_instances.masks.masks
        assert np.array_equal(here, batch["data_samples"][0].gt_instances.masks.masks)


def test_the_panoptic_truth_of_an_instance_is_what_the_map_shows_of_it(annotated):
    dataset, masks = annotated
    samples = TrainingSamples(dataset, seed=1, **AS_THEY_ARE)
    sample = samples[0, 0]["data_samples"]
    truth = panoptic_truth(sample, torch.tensor([True, True]), num_things=2, semantic_shape=(4, 64, 80)).numpy()
    segment_ids = dataset.load_segment_ids(dataset.images[0])
    assert np.array_equal(truth == 2, (segment_ids == 30) & masks[0])
    assert np.array_equal(truth == 3, (segment_ids == 31) & masks[1])


def test_truth_is_a_byte_a_pixel(dataset):
    assert TrainingSamples(dataset, seed=0, **AS_THEY_ARE)[0, 0]["data_samples"].gt_sem_seg.sem_seg.dtype == torch.uint8


def test_a_forked_process_shares_the_list_of_images(dataset):
    """Reading 3,000 images would else copy some 7 MB."""
    image = dataset.images[0]
    many = tuple(
        replace(image, segments=tuple(s._replace(segment_id=n) for s in image.segments * 3)) for n in range(3000)
    )
    samples = TrainingSamples(replace(dataset, images=many), seed=0, **AS_THEY_ARE)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        before = private_kb()
        areas = sum(segment.area_px for n in range(len(samples)) for segment in samples._images[n].segments)
        os.write(writing, f"{private_kb() - before} {areas}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    grown_kb, areas = map(int, os.read(reading, 100).split())
    assert areas == 9000 * sum(segment.area_px for segment in image.segments)
    assert grown_kb < 2000


def private_kb():
    (line,) = [line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "Private_Dirty" in line]
    return int(line.split()[1])
