"""UPSNet's panoptic head in training against a literal walk over every cell and channel."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from scipy.ndimage import map_coordinates
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from antvisionps.models.e_ups.panoptic_loss import (
    IGNORED,
    choose_known_instances,
    panoptic_logits,
    panoptic_loss,
    panoptic_truth,
)

THINGS, STUFF = 2, 3
STRIDE = 4

PICTURE = """
    33333333
    33aaa333
    33aaab44
    4bbbbb44
    4bbbb..4
    44cc..x4
"""
"""3 and 4 are stuff classes, a, b and c instances of classes 0, 1 and 1, x a crowd, . void; a cell has 4 px."""


def sample_of(picture: str) -> DetDataSample:
    rows = [list(line.strip()) for line in picture.split()]
    pixels = np.array(rows).repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)
    classes = {"3": 3, "4": 4, "a": 0, "b": 1, "c": 1, "x": 1, ".": 255}
    semantic = np.vectorize(classes.get)(pixels)
    names = [name for name in "abc" if (pixels == name).any()]
    masks = np.array([pixels == name for name in names], dtype=np.uint8).reshape(-1, *pixels.shape)
    sample = DetDataSample()
    sample.gt_instances = InstanceData(
        bboxes=masks_to_boxes(torch.from_numpy(masks)) + torch.tensor([0, 0, 1, 1]),
        labels=torch.tensor([classes[name] for name in names], dtype=torch.long),
        masks=BitmapMasks(masks, *pixels.shape),
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic.astype(np.int64))[None])
    return sample


def literal_logits(semantic, masks, boxes, labels):
    """Pixel by pixel, as the paper tells it: crop, resize, pad, add, maximum."""
    height, width = semantic.shape[1:]
    out = np.zeros((STUFF + len(boxes) + 1, height, width))
    for y in range(height):
        for x in range(width):
            out[:STUFF, y, x] = semantic[THINGS:, y, x]
            cropped = []
            for k, ((x0, y0, x1, y1), label) in enumerate(zip(boxes, labels, strict=True)):
                crop = mask = 0.0
                if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1:
                    crop = semantic[label, y, x]
                    size = masks.shape[-1]
                    at = [[(y + 0.5 - y0) / (y1 - y0) * size - 0.5], [(x + 0.5 - x0) / (x1 - x0) * size - 0.5]]
                    mask = map_coordinates(masks[k], at, order=1, mode="nearest")[0]
                out[STUFF + k, y, x] = crop + mask
                cropped.append(crop)
            out[-1, y, x] = max(semantic[:THINGS, y, x]) - max(cropped, default=0.0)
    return out


def random_logits(num_masks: int, hw=(6, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randn(THINGS + STUFF, *hw, generator=generator, requires_grad=True)
    return semantic, torch.randn(num_masks, 28, 28, generator=generator, requires_grad=True)


BOXES = [[2, 1, 5, 3], [1, 2, 6, 5], [1.4, 0.6, 5.5, 4.49], [0, 0, 8, 6]]
"""On cells, between them, and the whole grid."""


@pytest.mark.parametrize(("boxes", "labels"), [(BOXES, [0, 1, 1, 0]), ([], [])])
def test_logits_are_those_of_the_literal_version(boxes, labels):
    semantic, masks = (logits.detach() for logits in random_logits(len(boxes)))
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    got = panoptic_logits(semantic, masks, xyxy, torch.tensor(labels, dtype=torch.long), num_things=THINGS)
    expected = literal_logits(semantic.numpy(), masks.numpy(), boxes, labels)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
    if boxes:  # that of the whole grid is torch's own resizing
        resized = F.interpolate(masks[-1][None, None], size=(6, 8), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(got[-2] - semantic[0], resized, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", [(True, True, True), (True, False, True), (False, False, False)])
def test_truth_is_the_channel_at_each_cells_centre(known):
    channels = {"3": 1, "4": 2, ".": IGNORED, "x": IGNORED}
    for name, kept in zip("abc", known, strict=True):
        channels[name] = STUFF + sum(known[: "abc".index(name)]) if kept else STUFF + sum(known)
    expected = [[channels[cell] for cell in line.strip()] for line in PICTURE.split()]
    shape = (THINGS + STUFF, 6, 8)
    truth = panoptic_truth(sample_of(PICTURE), torch.tensor(known), num_things=THINGS, semantic_shape=shape)
    assert truth.tolist() == expected


def test_loss_is_the_mean_cross_entropy_over_the_cells_of_the_batch():
    pictures = [PICTURE, PICTURE.replace("a", "3").replace("c", ".").replace("b", "4")]
    samples = [sample_of(picture) for picture in pictures]
    known = [torch.tensor([True, False, True]), torch.zeros(0, dtype=torch.bool)]
    logits = [random_logits(int(k.sum()), seed=index) for index, k in enumerate(known)]
    semantic = torch.stack([s for s, _ in logits])
    got = panoptic_loss(semantic, [m for _, m in logits], samples, known, num_things=THINGS)
    losses = []
    for (sem, masks), sample, kept in zip(logits, samples, known, strict=True):
        boxes, labels = sample.gt_instances.bboxes[kept] / STRIDE, sample.gt_instances.labels[kept]
        scores = literal_logits(sem.detach().numpy(), masks.detach().numpy(), boxes.tolist(), labels.tolist())
        truth = panoptic_truth(sample, kept, num_things=THINGS, semantic_shape=tuple(sem.shape))[None]
        each = F.cross_entropy(torch.from_numpy(scores)[None], truth, reduction="none", ignore_index=IGNORED)
        losses.append(each[truth != IGNORED])
    assert float(got.detach()) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    got.backward()
    # Both heads learn from it, and each instance's mask.
    assert (logits[0][0].grad.abs().sum(dim=(1, 2)) > 0).all()
    assert (logits[0][1].grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("picture", ["....\n....", "333x\n4444"])
def test_pictures_without_instances_or_truth_cost_a_finite_amount(picture):
    sample = sample_of(picture)
    semantic = torch.randn(1, THINGS + STUFF, 2, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.bool)
    loss = panoptic_loss(semantic, [torch.zeros(0, 28, 28)], [sample], [nothing], num_things=THINGS)
    loss.backward()
    assert (loss.item() == 0) == ("3" not in picture)
    assert torch.isfinite(torch.cat([loss[None], semantic.grad.flatten()])).all()


def test_the_asked_fraction_becomes_unknown():
    sample = DetDataSample()
    sample.gt_instances = InstanceData(bboxes=torch.zeros(20000, 4))
    (known,) = choose_known_instances([sample], unknown_frac=0.3)
    assert float(known.float().mean()) == pytest.approx(0.7, abs=0.02)
    assert choose_known_instances([sample], unknown_frac=0.0)[0].all()
