"""The view of a training: its counts, AP and maps are those that the pipeline makes of the same predictions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from antvisionps.evaluation.panoptic_quality import class_quality, group_quality, total_counts
from antvisionps.evaluation.panoptic_quality import count_matches as count_by_runs
from antvisionps.fusion.heuristic import HeuristicRules, fuse_image
from antvisionps.fusion.semantic_average import average_semantics
from antvisionps.models.inference.views import DetectedInstances, ImagePrediction
from antvisionps.models.monitor import measure as measuring
from antvisionps.models.monitor.measure import measure
from antvisionps.models.monitor.panoptic_map import MIN_STUFF_FRAC, PanopticMap, draw_map, likeliest_classes
from antvisionps.models.monitor.quality import ImageMasks, count_matches, mask_ap, panoptic_quality
from antvisionps.panoptic.gt_instances import GtInstances, write_gt_instances
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segment_runs import find_runs
from antvisionps.panoptic.segments import class_index_map
from antvisionps.predictions.semantic import ImageSemantics
from tests.drawing import draw_box, found
from tests.evaluation.test_average_precision import CATEGORY_IDS, evaluate, random_image
from tests.evaluation.test_counts_of_many_maps import IDS, KINDS, random_pair
from tests.models.conftest import NETWORKS, build

SIZES = {"short_sides_px": (48, 96, 64), "max_long_side_px": 200}


def test_pq_is_that_of_the_runs_which_is_panopticapis():
    rng = np.random.default_rng(3)
    pairs = [random_pair(rng, KINDS[index % len(KINDS)]) for index in range(20 * len(KINDS))]
    plain, by_runs = [], []
    for pair in pairs:
        # A view numbers its segments from 1 on.
        number_of = {segment.segment_id: number for number, segment in enumerate(pair.predicted, start=1)}
        category_of = {number_of[segment.segment_id]: segment.category_id for segment in pair.predicted}
        ids = np.vectorize(lambda i, number_of=number_of: number_of.get(i, 0))(pair.predicted_ids).astype(np.int32)
        plain.append(count_matches(pair.gt_ids, pair.gt, PanopticMap(ids, category_of)))
        runs = {
            "gt_runs": find_runs(pair.gt_ids, pair.gt),
            "predicted_runs": find_runs(pair.predicted_ids, pair.predicted),
        }
        by_runs.append(count_by_runs(**runs, gt=pair.gt, predicted=pair.predicted))
        expected = class_quality(by_runs[-1])
        assert panoptic_quality([plain[-1]], IDS) == pytest.approx(group_quality(expected, IDS).pq if expected else 0.0)
    of_class = class_quality(total_counts(by_runs))
    for group in (IDS, IDS[:1], IDS[2:]):
        assert panoptic_quality(plain, group) == pytest.approx(group_quality(of_class, group).pq, abs=1e-12)
    assert panoptic_quality(plain, [99]) == 0


def test_ap_is_that_of_the_heldout_evaluation():
    rng = np.random.default_rng(0)
    for _ in range(6):
        images = [random_image(rng, image_id) for image_id in range(1, 1 + rng.integers(1, 12))]
        masks = [
            ImageMasks(
                (predicted.height, predicted.width),
                gt,
                list(zip(predicted.category_ids.tolist(), predicted.scores.tolist(), predicted.rles, strict=True)),
            )
            for predicted, gt in images
        ]
        of_class = evaluate(images)
        annotated = [one.ap for one in of_class.values() if one.n_gt]
        assert mask_ap(masks, CATEGORY_IDS) == pytest.approx(np.mean(annotated), abs=1e-12)
        assert mask_ap([replace(one, found=[]) for one in masks], CATEGORY_IDS) == 0
    crowd = GtInstances.of([(1, True, encode_masks(np.ones((1, 4, 4)))[0])])
    assert mask_ap([ImageMasks((4, 4), crowd, [])], CATEGORY_IDS) is None


def random_prediction(rng, masks=()):
    """Probabilities of the grid that 8 bits hold, and an instance for each (class index, score) of rows."""
    image_hw, input_hw, stride = (45, 70), (30, 47), 4
    probs = (rng.integers(0, 256, (4, 8, 12)) / 255).astype(np.float32)
    instances = DetectedInstances(
        np.zeros((len(masks), 4), np.float32),
        np.sort(rng.uniform(0.3, 1, len(masks)).astype(np.float32))[::-1],
        rng.integers(0, 2, len(masks)),
        np.zeros((len(masks), 28, 28), np.float32),
    )
    return ImagePrediction(image_hw, input_hw, probs, stride, instances)


def fused_semantics(prediction, categories):
    semantics = ImageSemantics.from_probs(
        1,
        hw=prediction.image_hw,
        input_hw=prediction.input_hw,
        stride=prediction.semantic_stride,
        category_ids=categories.category_ids,
        probs=prediction.semantic_probs,
    )
    return average_semantics([semantics], weights=[1.0], categories=categories, average_of="probabilities")


def test_likeliest_classes_are_those_of_the_fusion(categories):
    rng = np.random.default_rng(1)
    for _ in range(5):
        prediction = random_prediction(rng)
        average = fused_semantics(prediction, categories)
        differs = likeliest_classes(prediction) != average.class_map
        at_pixels = np.sort(np.stack([average._at_pixels(plane) for plane in average.sums]), axis=0)
        is_tie = at_pixels[-1] - at_pixels[-2] < 1e-2  # of 255
        assert not (differs & ~is_tie).any()


def test_the_map_is_that_of_the_fusions_heuristic(categories, monkeypatch):
    rng = np.random.default_rng(2)
    for _ in range(20):
        boxes = [(*rng.integers(0, 40, 2).tolist(), *rng.integers(1, 30, 2).tolist()) for _ in range(8)]
        masks = [draw_box((45, 70), box) for box in boxes]
        prediction = random_prediction(rng, masks)
        classes = rng.integers(0, 4, (3, 5)).repeat(15, axis=0).repeat(14, axis=1).astype(np.uint8)
        monkeypatch.setattr("antvisionps.models.monitor.panoptic_map.likeliest_classes", lambda _, c=classes: c)
        drawn = draw_map(prediction, masks, categories)
        category_ids = categories.category_ids[prediction.instances.class_indices]
        rows = zip(category_ids.tolist(), prediction.instances.scores.tolist(), masks, strict=True)
        fused = fuse_image(
            {"e": found(*rows)},
            classes,
            categories=categories,
            end_of_category=None,
            semantic_end="e",
            rules=HeuristicRules(0.5, 0.5, int(np.ceil(MIN_STUFF_FRAC * classes.size))),
        )
        np.testing.assert_array_equal(drawn.segment_ids, fused.segment_ids)
        assert drawn.category_of == {segment.segment_id: segment.category_id for segment in fused.segments}


@pytest.mark.parametrize("end", NETWORKS)
def test_every_end_is_measured_in_what_it_predicts_at_the_middle_size(end, dataset, monkeypatch):
    seen = []

    def remember(photo, networks, weights, settings):
        seen.append(settings)
        return predict(photo, networks, weights, settings)

    predict = measuring.predict_image
    monkeypatch.setattr(measuring, "predict_image", remember)
    network = build(end, sharp=True).eval()
    values = measure(network, dataset, **SIZES)
    assert list(values) == (["PQ"] if end == "hrnet_aspp" else ["PQ", "AP"])
    assert all(0 <= value <= 100 for value in values.values())
    assert [tuple(settings.short_sides_px) for settings in seen] == [(64,)] * 3


def say_the_truth(dataset, *, with_instances):
    """In place of `predict_image`: the photos' own truth, which has no void where the things are."""
    photos = {dataset.load_photo(image).tobytes(): image for image in dataset.images}

    def predict(photo, *_):
        image = photos[photo.tobytes()]
        segment_ids = dataset.load_segment_ids(image)
        things = [s for s in image.segments if s.category_id in dataset.categories.thing_ids and not s.is_crowd]
        boxes = np.array([s.bbox_xywh for s in things], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = DetectedInstances(
            boxes,
            np.full(len(things), 0.9, np.float32),
            np.array([dataset.categories.class_index(s.category_id) for s in things], dtype=np.int64),
            np.ones((len(things), 28, 28), np.float32),
        )
        classes = class_index_map(segment_ids, image, dataset.categories)
        probs = np.eye(256, dtype=np.float32)[classes].transpose(2, 0, 1)[: len(dataset.categories)]
        hw = (image.height, image.width)
        return ImagePrediction(hw, hw, np.ascontiguousarray(probs), 1, instances if with_instances else None)

    return predict


def test_the_truth_is_worth_all_and_without_instances_all_of_stuff(dataset, monkeypatch):
    monkeypatch.setattr(measuring, "predict_image", say_the_truth(dataset, with_instances=True))
    assert measure(None, dataset, **SIZES) == pytest.approx({"PQ": 100, "AP": 100})
    monkeypatch.setattr(measuring, "predict_image", say_the_truth(dataset, with_instances=False))
    assert measure(None, dataset, **SIZES) == pytest.approx({"PQ": 100})


def test_processes_that_share_the_images_measure_what_one_does(dataset, monkeypatch):
    truth, first = say_the_truth(dataset, with_instances=True), dataset.load_photo(dataset.images[0])
    monkeypatch.setattr(measuring, "predict_image", lambda *_: truth(first))  # wrong but for one image
    alone = measure(None, dataset, **SIZES)
    assert 0 < alone["PQ"] < 100
    own, parts, all_done = threading.local(), {}, threading.Barrier(2)

    def gather(part):
        parts[own.rank] = part
        all_done.wait(timeout=60)
        return [parts[0], parts[1]]

    def share(rank):
        own.rank = rank
        return measure(None, dataset, **SIZES)

    monkeypatch.setattr(measuring, "get_dist_info", lambda: (own.rank, 2))
    monkeypatch.setattr(measuring, "all_gather_object", gather)
    monkeypatch.setattr(
        measuring, "mask_ap", lambda masks, _: float(len(masks))
    )  # it redirects stdout, which is shared
    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(share, (0, 1)))
    assert [one["PQ"] for one in shared] == [alone["PQ"]] * 2
    assert [one["AP"] for one in shared] == [100.0 * len(dataset.images)] * 2


def test_annotated_instances_take_the_place_of_the_maps(dataset, monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "predict_image", say_the_truth(dataset, with_instances=True))
    nowhere = GtInstances.of([(5, False, encode_masks(draw_box((64, 80), (70, 50, 3, 3))[None])[0])])
    write_gt_instances(tmp_path / "gt.parquet", [(image.image_id, nowhere) for image in dataset.images])
    annotated = replace(dataset, instances=tmp_path / "gt.parquet")
    assert measure(None, annotated, **SIZES) == pytest.approx({"PQ": 100, "AP": 0})


def test_measuring_leaves_weights_and_gradients_as_they_are(dataset):
    network = build("e_ups", sharp=True).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure(network, dataset, **SIZES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in network.parameters())
