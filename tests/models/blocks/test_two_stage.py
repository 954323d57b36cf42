"""RoI features and proposals against mmdet's own."""

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData

from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.two_stage import roi_extractor
from tests.models.conftest import build


def test_boxes_of_roi_features_are_not_rounded_to_half_precision():
    extractor = MODELS.build(roi_extractor(channels=4, size=7))
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, 4, 1344 // s, 1344 // s, generator=generator).bfloat16() for s in (4, 8, 16, 32)]
    rois = torch.tensor([[0, 1201.0, 1205, 1233, 1241], [0, 901, 303, 1310, 777]])
    exact = extractor([level.float() for level in levels], rois)
    torch.testing.assert_close(extractor(levels, rois).float(), exact, rtol=1e-2, atol=1e-2)
    stock = extractor.__class__.__base__.forward(extractor, levels, rois).float()
    assert (stock - exact).abs().max() > 0.3


def test_roi_features_of_every_level_are_mmdets():
    extractor = MODELS.build(roi_extractor(channels=4, size=7))
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 4, 512 // s, 512 // s, generator=generator) for s in (4, 8, 16, 32)]
    sides = torch.tensor([12.0, 60, 111, 113, 200, 230, 400, 460, 500, 20])
    corners = torch.rand(10, 2, generator=generator) * 12
    rois = torch.cat([torch.arange(10).float()[:, None] % 2, corners, corners + sides[:, None]], dim=1)
    assert set(extractor.map_roi_levels(rois, 4).tolist()) == {0, 1, 2, 3}
    stock = extractor.__class__.__base__.forward(extractor, levels, rois)
    torch.testing.assert_close(extractor(levels, rois), stock, rtol=0, atol=0)


def test_proposals_are_not_rounded_to_half_precision():
    network, generator = build("e_ups"), torch.Generator().manual_seed(0)
    grids = [(max(32 // stride, 1), 1344 // stride) for stride in two_stage.STRIDES]
    scores = [torch.randn(1, 3, *hw, generator=generator).bfloat16() for hw in grids]
    deltas = [0.1 * torch.randn(1, 12, *hw, generator=generator).bfloat16() for hw in grids]
    how = {"batch_img_metas": [{"img_shape": (32, 1344)}], "cfg": network.train_cfg.rpn_proposal}
    (found,) = network.rpn_head.predict_by_feat(scores, deltas, **how)
    (exact,) = RPNHead.predict_by_feat(
        network.rpn_head, [level.float() for level in scores], [level.float() for level in deltas], **how
    )
    assert found.bboxes.dtype == torch.float32
    assert torch.equal(found.bboxes, exact.bboxes)


def test_anchors_in_a_crowd_count_in_no_loss_where_nothing_else_is_there():
    assigner = TASK_UTILS.build(build("e_ups").train_cfg.rpn.assigner)
    anchors = InstanceData(priors=torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [12, 0, 30, 10], [40, 0, 50, 10]]))
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    crowd = InstanceData(bboxes=torch.tensor([[0.0, 0, 20, 10]]))
    assert assigner.assign(anchors, nothing, crowd).gt_inds.tolist() == [-1, -1, 0, 0]
    beside = InstanceData(bboxes=torch.tensor([[40.0, 0, 50, 10]]), labels=torch.zeros(1, dtype=torch.long))
    assert assigner.assign(anchors, beside, crowd).gt_inds.tolist() == [-1, -1, 0, 1]
    assert assigner.assign(anchors, nothing, None).gt_inds.tolist() == [0, 0, 0, 0]
