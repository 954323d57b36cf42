"""E-UPS's losses against mmdet's, one by one and all together."""

import torch
from mmdet.models.detectors import TwoStagePanopticSegmentor
from torch.nn import functional as F
from torchvision.ops import roi_align

from antvisionps.models.e_ups.semantic_head import crop_classes
from tests.models.conftest import batch_of, build, gradients_of, losses_of


def test_without_extras_losses_and_gradients_are_those_of_mmdets_panoptic_segmentor(dataset, monkeypatch):
    network = build("e_ups")
    batch = batch_of(network, dataset, flip=True)
    got, gradients = losses_of(network, batch), gradients_of(network)
    head = network.semantic_head

    def loss_of_levels(levels, samples):
        """As mmdet calls its heads."""
        features = head.features(levels)
        return head.losses(features, head.classifier(features), samples)

    monkeypatch.setattr(head, "loss", loss_of_levels, raising=False)
    monkeypatch.setattr(network, "loss", lambda *data: TwoStagePanopticSegmentor.loss(network, *data))
    torch.testing.assert_close(got, losses_of(network, batch))
    torch.testing.assert_close(gradients, gradients_of(network))


def test_the_roi_semantic_loss_is_cross_entropy_in_ground_truth_boxes(dataset):
    network = build("e_ups", roi_semantic_loss_weight=0.04)
    images, samples = batch_of(network, dataset, (0,)).values()
    head = network.semantic_head
    features = head.features(network.extract_feat(images))
    got = head.losses(features, head.classifier(features), samples)["loss_semantic_roi"]
    boxes, truth = samples[0].gt_instances.bboxes, samples[0].gt_sem_seg.sem_seg[0]
    pooled = roi_align(features, [boxes], 28, 0.25, aligned=True)
    logits = F.conv2d(pooled, head.classifier.weight, head.classifier.bias)
    target = torch.empty(len(boxes), 28, 28, dtype=torch.long)
    for k, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for i in range(28):
            for j in range(28):
                target[k, i, j] = truth[int(y0 + (i + 0.5) / 28 * (y1 - y0)), int(x0 + (j + 0.5) / 28 * (x1 - x0))]
    torch.testing.assert_close(got, 0.04 * F.cross_entropy(logits, target, ignore_index=255))


def test_cropped_classes_come_from_each_boxs_own_image():
    truth = torch.stack([torch.zeros(8, 8, dtype=torch.long), torch.arange(8).repeat(8, 1)])
    rois = torch.tensor([[1.0, 2, 0, 6, 8], [0, 0, 0, 8, 8]])
    assert crop_classes(truth, rois, size=4).tolist() == [[[2, 3, 4, 5]] * 4, [[0] * 4] * 4]
