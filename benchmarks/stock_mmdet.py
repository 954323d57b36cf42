"""mmdet's own Panoptic FPN (Kirillov et al. 2019) and Hybrid Task Cascade (Chen et al. 2019), the yardsticks that the
benchmarks hold E-UPS and LWL-HTC against.

As a program it trains one on a prepared data set and fills a cache, with the sizes and the training of a params file's
end: its cache stands in that end's place, so that the same params fuse and score it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from antvisionps.core.stage import run_stage
from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.backbones import describe_backbone
from antvisionps.models.e_ups.network import EUps, plain_roi_head
from antvisionps.models.lwl_htc.network import HtcSettings, LwlHtc, htc_parts
from antvisionps.models.training.device import select_device
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.whole import load_params

# mmdet can be imported once antvisionps.models has put mmcv's operators in place.
# isort: split
from mmdet.models.detectors import HybridTaskCascade, PanopticFPN
from mmdet.models.necks import FPN
from mmdet.models.seg_heads import PanopticFPNHead

SIZES = (
    "backbone", "fpn_channels", "anchor_scale", "train_proposals", "rois_per_image", "box_fc_channels", "mask_convs",
)  # fmt: skip
"""Settings of our networks that mmdet's have too."""

NO_NORMS = {"pyramid_norm": None, "head_norm": None}


class StockPanopticFpn(PanopticFPN):
    """mmdet's network and losses, and at test time what `inference.scorers.BoxScorer` asks for, as E-UPS has it."""

    semantic_stride = two_stage.STRIDES[0]

    extract = EUps.extract
    propose = EUps.propose
    score_boxes = EUps.score_boxes
    mask_logits = EUps.mask_logits

    def semantic_probabilities(self, features: tuple[Tensor, ...]) -> Tensor:
        """Its one channel for all things stands at the first thing class: the heuristic only asks which stuff wins."""
        head = self.semantic_head
        probabilities = head(features)["seg_preds"][0].softmax(dim=0)
        things = probabilities.new_zeros(head.num_things_classes, *probabilities.shape[1:])
        things[0] = probabilities[-1]
        return torch.cat([things, probabilities[:-1]])


def build_panoptic_fpn(**settings: Any) -> StockPanopticFpn:
    """mmdet's configs/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py with the sizes of these DetectorSettings: its
    semantic head, loss weights (0.5 for semantics), L1 loss and merging of thing classes into one, on the backbone,
    pyramid and boxes that E-UPS has."""
    network = two_stage.DetectorSettings(**settings, **NO_NORMS)
    backbone = describe_backbone(**network.backbone)
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    plain = plain_roi_head(network)
    roi_head = plain | {"bbox_head": plain["bbox_head"] | {"loss_bbox": l1}}
    rcnn = two_stage.rcnn_train_cfg(network, positive_iou=0.5)
    parts = two_stage.detector_parts(network, backbone, roi_head=roi_head, rcnn=rcnn)
    parts["rpn_head"]["loss_bbox"] = l1
    return StockPanopticFpn(
        neck=two_stage.fpn(backbone, network.fpn_channels, None) | {"type": FPN},
        semantic_head={
            "type": PanopticFPNHead,
            "num_things_classes": network.num_things,
            "num_stuff_classes": network.num_classes - network.num_things,
            "in_channels": network.fpn_channels,
            "inner_channels": network.fpn_channels // 2,
            "norm_cfg": {"type": "GN", "num_groups": min(32, network.fpn_channels // 2), "requires_grad": True},
            "loss_seg": {"type": "CrossEntropyLoss", "ignore_index": VOID_CLASS_INDEX, "loss_weight": 0.5},
        },
        **parts,
    )


class StockHtc(HybridTaskCascade):
    """mmdet's network, losses and initialisation, and at test time what a BoxScorer has: the last stage's masks, as in
    mmdet, and the semantic branch's probabilities."""

    semantic_stride = two_stage.STRIDES[1]
    average_mask_stages = False

    extract = LwlHtc.extract
    propose = LwlHtc.propose
    score_boxes = LwlHtc.score_boxes
    mask_logits = LwlHtc.mask_logits
    semantic_probabilities = LwlHtc.semantic_probabilities


def build_htc(**settings: Any) -> StockHtc:
    """mmdet's configs/htc/htc_r50_fpn_1x_coco.py with the sizes of these DetectorSettings: its semantic branch of four
    convolutions at stride 8, here of all panoptic classes, with the loss weight 0.2."""
    plain = {"location_sensitive_header": False, "deformable_semantic_head": None, "semantic_loss_on": "grid"}
    semantics = {"semantic_level": 1, "semantic_convs": 4, "semantic_loss_weight": 0.2}
    parts = htc_parts(HtcSettings(**settings, **NO_NORMS, **plain, **semantics))
    return StockHtc(**parts | {"neck": parts["neck"] | {"type": FPN}})


BUILDERS = {"e_ups": build_panoptic_fpn, "lwl_htc": build_htc}
"""The end that each stands in for."""


def main() -> None:
    # These need dvclive, which the memory benchmark does without.
    from antvisionps.models.inference.end_networks import EndNetworks
    from antvisionps.models.inference.fill_caches import fill_caches
    from antvisionps.models.inference.views import PredictionSettings
    from antvisionps.models.training.member import train_member
    from antvisionps.models.training.settings import TrainingSettings
    from antvisionps.models.training.weights import load_weights

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("params", "prepared", "work", "models", "predictions"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--end", choices=BUILDERS, required=True)
    arguments = parser.parse_args()
    build = BUILDERS[arguments.end]
    params = load_params(arguments.params)
    device = select_device(params.runtime.device, cpu_threads=params.runtime.cpu_threads)
    training = params.train_e_ups if arguments.end == "e_ups" else params.train_lwl_htc
    ours = training.networks[training.members[0]]
    network = {key: ours.model_dump(mode="json")[key] for key in SIZES}
    folder = arguments.models / "base"
    fingerprint = dataset_fingerprint(arguments.prepared)
    if not folder.exists():
        train_member(
            open_split(arguments.prepared, "train"),
            build=build,
            end=arguments.end,
            network=network,
            settings=TrainingSettings(**training.keyword_arguments()),
            load_from=None,
            checkpoint_interval=params.runtime.checkpoint_interval,
            loader_workers=params.runtime.loader_workers,
            dataset_fingerprint=fingerprint,
            work_dir=arguments.work,
            out_dir=folder,
        )
    dataset = open_split(arguments.prepared, "val")
    model = build(
        num_things=len(dataset.categories.things),
        num_classes=len(dataset.categories),
        test_proposals=params.predict.max_proposals,
        **network,
    )
    load_weights(folder, model)
    end = EndNetworks([model.to(device).eval()], [1.0], params.predict.max_proposals, [[folder]])
    fill_caches(
        {arguments.end: end},
        {"val": dataset},
        PredictionSettings(**params.predict.keyword_arguments()),
        dataset_fingerprint=fingerprint,
        work_dir=arguments.work,
        predictions_dir=arguments.predictions,
    )


if __name__ == "__main__":
    run_stage(main)
