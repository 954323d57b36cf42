"""mmdet's own Panoptic FPN (Kirillov et al. 2019), the yardstick that the benchmarks hold E-UPS against.

As a program it trains one on a prepared data set and fills a cache, with the settings of a params file's E-UPS.
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
from antvisionps.models.training.device import select_device
from antvisionps.panoptic.categories import VOID_CLASS_INDEX
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.params.whole import load_params

# mmdet can be imported once antvisionps.models has put mmcv's operators in place.
# isort: split
from mmdet.models.detectors import PanopticFPN
from mmdet.models.seg_heads import PanopticFPNHead

END = "e_ups"
"""Its cache stands in E-UPS's place, so that the same params fuse and score it."""

SHARED_WITH_E_UPS = (
    "backbone", "fpn_channels", "anchor_scale", "train_proposals", "rois_per_image", "box_fc_channels", "mask_convs",
)  # fmt: skip
"""Settings of an E-UPS network that this one has too."""


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
    network = two_stage.DetectorSettings(**settings)
    backbone = describe_backbone(**network.backbone)
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    plain = plain_roi_head(network)
    roi_head = plain | {"bbox_head": plain["bbox_head"] | {"loss_bbox": l1}}
    rcnn = two_stage.rcnn_train_cfg(network, positive_iou=0.5)
    parts = two_stage.detector_parts(network, backbone, roi_head=roi_head, rcnn=rcnn)
    parts["rpn_head"]["loss_bbox"] = l1
    return StockPanopticFpn(
        neck=two_stage.fpn(backbone, network.fpn_channels),
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


def main() -> None:
    # These need dvclive, which the memory benchmark does without.
    from antvisionps.models.inference.end_networks import EndNetworks
    from antvisionps.models.inference.fill_caches import CacheToFill, fill_caches
    from antvisionps.models.inference.views import PredictionSettings
    from antvisionps.models.training.member import train_member
    from antvisionps.models.training.settings import TrainingSettings
    from antvisionps.models.training.weights import load_weights, weights_sha256
    from antvisionps.predictions.schema import CacheHeader

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("params", "prepared", "work", "models", "predictions"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    device = select_device(params.runtime.device, cpu_threads=params.runtime.cpu_threads)
    settings = params.train_e_ups.networks[params.train_e_ups.members[0]].model_dump(mode="json")
    network = {key: settings[key] for key in SHARED_WITH_E_UPS}
    folder = arguments.models / "base"
    fingerprint = dataset_fingerprint(arguments.prepared)
    if not folder.exists():
        train_member(
            open_split(arguments.prepared, "train"),
            build=build_panoptic_fpn,
            end=END,
            network=network,
            load_from=None,
            settings=TrainingSettings(**params.train_e_ups.keyword_arguments()),
            checkpoint_interval=params.runtime.checkpoint_interval,
            loader_workers=params.runtime.loader_workers,
            dataset_fingerprint=fingerprint,
            work_dir=arguments.work,
            out_dir=folder,
        )
    dataset = open_split(arguments.prepared, "val")
    model = build_panoptic_fpn(
        num_things=len(dataset.categories.things),
        num_classes=len(dataset.categories),
        test_proposals=params.predict.max_proposals,
        **network,
    )
    load_weights(folder, model)
    header = CacheHeader(
        end=END,
        split="val",
        dataset_fingerprint=fingerprint,
        categories=dataset.categories,
        weights_sha256=weights_sha256([folder]),
    )
    end = EndNetworks([model.to(device).eval()], [1.0])
    cache = CacheToFill(end, header, arguments.predictions / END / "val")
    fill_caches(dataset, [cache], PredictionSettings(**params.predict.keyword_arguments()))


if __name__ == "__main__":
    run_stage(main)
