"""What Writer makes of the tools' own results: the classes are the tools' where PyPI has them."""

from dataclasses import dataclass
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from antvisionps.core.errors import PredictionsError
from tests.interchange.guide import HEIGHT, WIDTH, category_map, names
from tests.interchange.two_masks import HW, LEFT, RIGHT

MASKS = np.stack([LEFT, RIGHT])


def assert_left_and_right(instances, category_ids, scores=(0.75, 0.5)):
    assert instances.category_ids.tolist() == category_ids
    assert instances.scores.tolist() == list(scores)
    assert instances.boxes_xywh.tolist() == [[4, 8, 30, 20], [50, 30, 40, 30]]
    for index, mask in enumerate(MASKS):
        np.testing.assert_array_equal(instances.runs.mask(index), mask)


def thing_ids(dataset, *places):
    return [dataset.categories.things[place].category_id for place in places]


# detectron2 is not on PyPI: these have the attributes and methods of its structures that outputs are read by.


class Boxes:
    def __init__(self, tensor):
        self.tensor = tensor


class Instances:
    """detectron2/structures/instances.py: fields in _fields, reached as attributes; get_fields."""

    def __init__(self, image_size, **fields):
        self._image_size, self._fields = image_size, fields

    @property
    def image_size(self):
        return self._image_size

    def __getattr__(self, name):
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    def __len__(self):
        return len(self._fields["scores"])

    def get_fields(self):
        return self._fields


def detectron2_instances():
    return Instances(
        HW,
        pred_masks=torch.tensor(MASKS),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([1, 3]),
        pred_boxes=Boxes(torch.tensor([[4.0, 8, 34, 28], [50, 30, 90, 60]])),
    )


def split_labels(dataset):
    """detectron2 counts things and stuff apart, and calls its first stuff class things."""
    things, stuff = ([one.name for one in kind] for kind in (dataset.categories.things, dataset.categories.stuff))
    return {"things": things, "stuff": ["things", *stuff]}


def test_instances_of_detectron2(written, dataset):
    instances, semantics = written(detectron2_instances(), split_labels(dataset))
    assert_left_and_right(instances, thing_ids(dataset, 1, 3))
    assert semantics is None


@pytest.mark.parametrize("corners", [[0, 0, 0, 0], [7, 9, 7, 9]])
def test_a_box_without_area_is_the_masks(written, dataset, corners):
    """detectron2's Mask2Former has such boxes."""
    found = detectron2_instances()
    found.get_fields()["pred_boxes"] = Boxes(torch.tensor([corners, corners], dtype=torch.float32))
    assert_left_and_right(written(found, split_labels(dataset))[0], thing_ids(dataset, 1, 3))


def test_class_logits_of_detectron2_get_a_softmax_and_lose_the_plane_of_things(written, dataset):
    logits = torch.randn(1 + len(dataset.categories.stuff), 16, 24, generator=torch.Generator().manual_seed(0))
    _, semantics = written({"instances": detectron2_instances(), "sem_seg": logits}, split_labels(dataset))
    assert semantics.category_ids.tolist() == [one.category_id for one in dataset.categories.stuff]
    expected = logits.softmax(0).numpy()[1:] * 255
    np.testing.assert_allclose(semantics.planes, expected, atol=0.5 + 1e-3)


def test_panoptic_seg_of_detectron2_alone_and_beside_instances(written, dataset):
    stuff = dataset.categories.stuff[2].category_id
    panoptic = torch.zeros(HW, dtype=torch.int32)
    panoptic[LEFT], panoptic[40:50] = 1, 2
    rows = [
        {"id": 1, "isthing": True, "score": 0.875, "category_id": 1, "instance_id": 0},
        {"id": 2, "isthing": False, "category_id": 3, "area": 10 * WIDTH},
    ]
    expected = np.where(LEFT, thing_ids(dataset, 1)[0], 0)
    expected[40:50] = stuff
    instances, semantics = written((panoptic, rows), split_labels(dataset))
    np.testing.assert_array_equal(category_map(semantics), expected)
    assert (instances.category_ids.tolist(), instances.scores.tolist()) == (thing_ids(dataset, 1), [0.875])
    whole = {"panoptic_seg": (panoptic, rows), "instances": detectron2_instances()}
    instances, semantics = written(whole, split_labels(dataset))
    assert_left_and_right(instances, thing_ids(dataset, 1, 3))
    np.testing.assert_array_equal(category_map(semantics), expected)


@pytest.mark.parametrize("is_split", [False, True])
def test_panoptic_deeplabs_map_without_segments_info_has_its_labels(written, dataset, is_split):
    """label * 1000 + instance; -1 is void."""
    classes = names(dataset)
    sky = len(dataset.categories.things)
    panoptic = torch.full(HW, -1)
    panoptic[LEFT], panoptic[RIGHT], panoptic[:6] = 1001, 1002, 1000 * sky
    tables = {"things": {k: classes[k] for k in range(sky)}, "stuff": {k: classes[k] for k in classes if k >= sky}}
    expected = np.where(MASKS.any(0), thing_ids(dataset, 1)[0], 0)
    expected[:6] = dataset.categories.categories[sky].category_id
    for result in ((panoptic, None), {"panoptic_seg": (panoptic, None)}):
        instances, semantics = written(result, tables if is_split else classes)
        np.testing.assert_array_equal(category_map(semantics), expected)
        assert_left_and_right(instances, thing_ids(dataset, 1, 1), (1, 1))


def test_det_data_samples_of_mmdet(written, dataset):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData

    classes = list(names(dataset).values())
    sky = len(dataset.categories.things) + 1
    panoptic = np.full(HW, len(classes))  # void
    panoptic[:6], panoptic[LEFT], panoptic[RIGHT] = sky, 1 + 1000, 1 + 2000
    sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.tensor(panoptic)[None]))
    instances, semantics = written(sample, classes)
    expected = np.where(MASKS.any(0), thing_ids(dataset, 1)[0], 0)
    expected[:6] = dataset.categories.categories[sky].category_id
    np.testing.assert_array_equal(category_map(semantics), expected)
    assert_left_and_right(instances, thing_ids(dataset, 1, 1), (1, 1))
    sample.pred_instances = InstanceData(
        masks=torch.tensor(MASKS),
        bboxes=torch.tensor([[4.0, 8, 34, 28], [50, 30, 90, 60]]),
        scores=torch.tensor([0.75, 0.5]),
        labels=torch.tensor([0, 2]),
    )
    instances, again = written(sample, classes)
    assert_left_and_right(instances, thing_ids(dataset, 0, 2))
    np.testing.assert_array_equal(again.planes, semantics.planes)


def test_seg_data_samples_of_mmseg(written, dataset):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.arange(HEIGHT * WIDTH).reshape(1, *HW) % len(dataset.categories)
    sample = SegDataSample(pred_sem_seg=PixelData(data=labels))
    classes = list(names(dataset).values())
    expected = dataset.categories.category_ids[labels[0].numpy()]
    np.testing.assert_array_equal(category_map(written(sample, classes)[1]), expected)
    sample.seg_logits = PixelData(data=torch.nn.functional.one_hot(labels[0], len(classes)).permute(2, 0, 1) * 3.0 - 1)
    instances, semantics = written(sample, classes)
    np.testing.assert_array_equal(category_map(semantics), expected)
    assert semantics.planes.max() < 255
    assert instances is None


def test_the_one_plane_of_a_binary_segmentor_of_mmseg_is_label_1(written, dataset):
    """num_classes=2, out_channels=1: seg_logits are probabilities, pred_sem_seg is whether they pass a threshold."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    probs = torch.linspace(0, 1, HEIGHT * WIDTH).reshape(1, *HW)
    sample = SegDataSample(seg_logits=PixelData(data=probs), pred_sem_seg=PixelData(data=(probs > 0.3).float()))
    background, foreground = dataset.categories.stuff[:2]
    for result in (sample, sample.to_dict()):  # as DumpResults writes it
        _, semantics = written(result, [background.name, foreground.name])
        assert semantics.category_ids.tolist() == [background.category_id, foreground.category_id]
        np.testing.assert_allclose(semantics.planes, torch.cat([1 - probs, probs]).numpy() * 255, atol=0.51)


def test_masks_of_prompts_as_sam_gives_them(written, dataset):
    """Stuff among them becomes semantics, as sure as its best mask."""
    thing, stuff = dataset.categories.things[1], dataset.categories.stuff[0]
    prompts = {"a round thing": thing.name, "the sky": stuff.category_id}
    result = {"masks": torch.tensor(MASKS), "scores": torch.tensor([0.75, 0.5]), "prompts": list(prompts)}
    instances, semantics = written(result, prompts)
    assert instances.category_ids.tolist() == [thing.category_id]
    assert semantics.category_ids.tolist() == [stuff.category_id]
    np.testing.assert_array_equal(semantics.planes[0], np.where(RIGHT, 128, 0))
    each = [  # as its generator of all masks lists them
        {"segmentation": mask, "predicted_iou": score, "stability_score": 0.9, "bbox": [0, 0, 1, 1], "prompt": prompt}
        for mask, score, prompt in zip(MASKS, (0.75, 0.5), prompts, strict=True)
    ]
    for one, other in zip(written(each, prompts), (instances, semantics), strict=True):
        assert repr(vars(one)) == repr(vars(other))
    with pytest.raises(PredictionsError, match="'a cat' is no category of the data set"):
        written(result | {"prompts": "a cat"}, prompts)


@dataclass
class Found:
    masks: np.ndarray
    scores: list
    category_ids: list
    semantic: np.ndarray | None = None


def test_an_iou_that_sam_predicts_above_1_is_1(written, dataset):
    name = dataset.categories.things[0].name
    each = [{"segmentation": LEFT, "predicted_iou": score, "prompt": name} for score in (1.03, 0.5)]
    assert written(each)[0].scores.tolist() == [1, 0.5]


def test_binary_maps_of_transformers_are_instances(written, dataset):
    rows = [{"id": n, "label_id": n, "score": score, "was_fused": False} for n, score in enumerate((0.75, 0.5))]
    instances, _ = written({"segmentation": torch.tensor(MASKS).float(), "segments_info": rows}, names(dataset))
    assert_left_and_right(instances, thing_ids(dataset, 0, 1))


def test_masks_in_a_list_are_tensors_of_any_kind(written, dataset):
    ids = thing_ids(dataset, 1, 3)
    masks = [torch.tensor(mask, dtype=torch.bfloat16, requires_grad=True) for mask in MASKS]
    scores = [torch.tensor(score, requires_grad=True) for score in (0.75, 0.5)]
    for of_masks in (masks, tuple(masks), [mask.bool() for mask in masks]):
        assert_left_and_right(written({"masks": of_masks, "scores": scores, "category_ids": ids})[0], ids)


def test_a_dataclass_is_read_as_a_dict_of_its_fields(written, dataset):
    ids = thing_ids(dataset, 1, 3)
    instances, semantics = written(Found(MASKS, [0.75, 0.5], ids))
    assert_left_and_right(instances, ids)
    assert semantics is None
    labels = np.full(HW, dataset.categories.stuff[0].category_id)
    np.testing.assert_array_equal(category_map(written(Found(MASKS, [0.75, 0.5], ids, labels))[1]), labels)


def queries(dataset, seed=0, queries=12, hw=HW, sureness=6.0):
    """Class logits (1, Q, C + 1) and smooth mask logits (1, Q, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    classes = sureness * torch.randn(1, queries, len(dataset.categories) + 1, generator=generator)
    masks = torch.nn.functional.avg_pool2d(30 * torch.randn(1, queries, *hw, generator=generator), 9, 1, 4)
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)


def test_raw_queries_give_the_semantics_and_instances_that_transformers_takes_from_them(written, dataset):
    from transformers import MaskFormerImageProcessor

    process, outputs = MaskFormerImageProcessor(), queries(dataset)
    instances, semantics = written(outputs, names(dataset))
    labels = process.post_process_semantic_segmentation(outputs, target_sizes=[HW])[0].numpy()
    place = np.full(1 + max(dataset.categories.category_ids), -1)
    place[semantics.category_ids] = np.arange(len(semantics.category_ids))
    chosen = np.take_along_axis(semantics.planes, place[dataset.categories.category_ids[labels]][None], axis=0)[0]
    np.testing.assert_array_equal(chosen, semantics.planes.max(axis=0))  # equal at 8 bits
    np.testing.assert_allclose(semantics.planes.sum(axis=0), 255, atol=len(semantics.category_ids) / 2)
    result = process.post_process_instance_segmentation(outputs, threshold=0.4, return_binary_maps=True)[0]
    expected = []
    for segment, mask in zip(result["segments_info"], result["segmentation"], strict=True):
        category = dataset.categories.categories[segment["label_id"]]
        if category.is_thing:
            expected.append((category.category_id, round(segment["score"], 4), int(mask.sum())))
    found = [
        (category_id, round(score, 4), area_px)
        for category_id, score, area_px in zip(
            instances.category_ids.tolist(), instances.scores.tolist(), instances.areas_px.tolist(), strict=True
        )
        if score > 0.4
    ]
    assert sorted(found) == sorted(expected)
    assert len(found) > 1


def test_mask_probs_of_raw_queries_are_the_masks_seen_through_their_boxes(written, dataset):
    """Stretched over its box as the union and the panoptic head do, a disc's grid gives the disc again."""
    rows, columns = np.indices(HW)
    radii = np.array([4, 9, 25])[:, None, None]
    logits = (radii - np.hypot(rows - 30, columns - np.array([20, 70, 60])[:, None, None])) / 2
    classes = 20.0 * np.eye(len(dataset.categories) + 1)[:3]
    instances, _ = written({"pred_logits": classes, "pred_masks": logits}, names(dataset))
    assert (instances.scores > 0.5).sum() == 3
    for index in range(3):
        x, y, width, height = instances.boxes_xywh[index].astype(int)
        mask = instances.runs.mask(index)[y : y + height, x : x + width]
        stretched = cv2.resize(instances.mask_probs[index], (width, height), interpolation=cv2.INTER_LINEAR) >= 128
        assert (stretched & mask).sum() / (stretched | mask).sum() > 0.95


def test_a_cell_that_no_raw_query_claims_is_void(written, dataset):
    outputs = queries(dataset)
    outputs.masks_queries_logits[:, :, :20] = -200  # of which float32's sigmoid is 0
    _, semantics = written(outputs, names(dataset))
    assert semantics.planes[:, :20].max() == 0
    assert semantics.planes[:, 20:].max() > 0


def test_padding_of_raw_queries_is_cut_off(written, dataset):
    """The same logits on a padded grid, as torch resizes them."""
    outputs = queries(dataset, hw=(HEIGHT // 4, WIDTH // 4))
    whole = written(outputs, names(dataset))
    logits = torch.nn.functional.pad(outputs.masks_queries_logits, (0, 8, 0, 16), mode="replicate")
    padded = SimpleNamespace(class_queries_logits=outputs.class_queries_logits, masks_queries_logits=logits)
    cut = written(padded, names(dataset), input_hw=HW, padded_hw=(HEIGHT + 64, WIDTH + 32))
    assert [of.rles for of in (whole[0], cut[0])] == [whole[0].rles] * 2
    np.testing.assert_array_equal(whole[0].mask_probs, cut[0].mask_probs)
    assert (cut[1].input_height, cut[1].input_width, cut[1].stride) == (*HW, 4)
    np.testing.assert_array_equal(cut[1].planes[:, : HEIGHT // 4, : WIDTH // 4], whole[1].planes)
    with pytest.raises(PredictionsError, match="expected a grid of one stride over the padded input"):
        written(padded, names(dataset), input_hw=HW, padded_hw=(HEIGHT + 64, WIDTH))


TWO = {"masks": MASKS, "scores": [0.5, 0.5], "category_ids": [3, 3]}
ROWS = [{"id": number, "label_id": 3, "score": 0.5} for number in (0, 1)]


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (object(), "a result of an unknown kind, object; give a dict of masks"),
        ({"masks": MASKS, "scores": [0.5, 0.5]}, "expected scores and one of category_ids, labels and prompts"),
        ({"masks": MASKS, "scores": [0.5], "category_ids": [3, 3]}, "as many masks as scores and labels, got 2, 1"),
        ({"masks": MASKS[:, 1:], "scores": [0.5] * 2, "category_ids": [3, 3]}, "expected 64 x 96 px"),
        ({"masks": MASKS * 3.5, "scores": [0.5] * 2, "category_ids": [3, 3]}, "are these logits"),
        ({"masks": MASKS, "scores": [0.5, 1.5], "category_ids": [3, 3]}, "expected a score from 0 to 1, got 1.5"),
        ({"masks": MASKS, "scores": [0.5, 0.5], "category_ids": [3, 99]}, "unknown category 99"),
        ({"masks": MASKS, "score": [0.5, 0.5], "category_ids": [3, 3]}, "unknown key 'score' in the dict"),
        (TWO | {"boxes_xyxy": np.ones((2, 5))}, r"boxes_xyxy: expected \(2, 4\), got \(2, 5\)"),
        (TWO | {"boxes_xywh": np.ones((1, 4))}, r"boxes_xywh: expected \(2, 4\), got \(1, 4\)"),
        (TWO | {"mask_probs": np.ones((1, 28, 28))}, r"mask_probs: expected \(2, 28, 28\), got \(1, 28, 28\)"),
        (TWO | {"masks": [LEFT, RIGHT[1:]]}, r"expected masks of one size, \(N, height, width\)"),
        ({"segmentation": [[1, 5, 9], [7, 2]], "segments_info": ROWS}, "use return_binary_maps=True"),
        ({"segmentation": MASKS, "segments_info": [{"id": 1, "score": 0.5}] * 2}, "unknown category None"),
        ({"segmentation": MASKS, "segments_info": [{"id": 1, "label_id": 3}] * 2}, "a score from 0 to 1, got None"),
        (np.zeros((2, 3)), "expected labels"),
        (np.full((2, 4, 4), np.nan), "expected finite class scores"),
        ({"pred_logits": np.zeros((3, 4)), "pred_masks": np.zeros((2, 4, 4))}, "expected class logits"),
    ],
)
def test_a_result_that_does_not_fit_is_one_line_and_nothing_is_written(written, tmp_path, result, match):
    with pytest.raises(PredictionsError, match=match) as refusal:
        written(result)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
