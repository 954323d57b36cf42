"""LWL-HTC, the second end: Hybrid Task Cascade whose semantic branch predicts all classes (Chen et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from mmdet.models.detectors import HybridTaskCascade
from mmdet.models.roi_heads import HybridTaskCascadeRoIHead
from mmdet.models.roi_heads.mask_heads import FusedSemanticHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor
from torch.nn import functional as F

from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.backbones import describe_backbone
from antvisionps.models.blocks.location_sensitive import LocationSensitiveBoxHead
from antvisionps.models.blocks.norms import norm_config, start_at_chance
from antvisionps.models.blocks.semantic_loss import upsampled_cross_entropy
from antvisionps.models.blocks.whole_batch import whole_batch_losses
from antvisionps.models.lwl_htc.dc_head import DeformableFusionHead
from antvisionps.models.lwl_htc.location_sensitive_cascade import LocationSensitiveCascadeRoIHead, fused_roi_features
from antvisionps.models.lwl_htc.uncertainty import Balance, UncertaintyWeighting
from antvisionps.panoptic.categories import VOID_CLASS_INDEX

STAGE_IOUS = (0.5, 0.6, 0.7)
STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)
STAGE_BOX_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
"""IoU, loss weight and target scale of the three stages (Cai and Vasconcelos 2018; Chen et al. 2019, section 4.2)."""

LOSS_NAMES = (
    "loss_rpn_cls",
    "loss_rpn_bbox",
    "loss_semantic_seg",
    *(f"s{stage}.loss_{term}" for stage in range(len(STAGE_IOUS)) for term in ("cls", "bbox", "mask")),
)
"""What mmdet's HybridTaskCascade gives to be minimised."""

LOSSES_OF: dict[str, tuple[str, ...]] = {
    "rpn_head.loss_cls": ("loss_rpn_cls", "loss_rpn_bbox"),
    **{
        f"roi_head.bbox_head.{stage}.loss_cls": tuple(f"s{stage}.{term}" for term in ("loss_cls", "loss_bbox", "acc"))
        for stage in range(len(STAGE_IOUS))
    },
    **{f"roi_head.mask_head.{stage}.loss_mask": (f"s{stage}.loss_mask",) for stage in range(len(STAGE_IOUS))},
}
"""Of mmdet's loss modules, the losses that are means over the same anchors, RoIs or masks."""

FUSED_SEMANTIC_LOSS: dict[str, tuple[str, ...]] = {"roi_head.semantic_head.criterion": ("loss_semantic_seg",)}
"""The same of HTC's own semantic branch on its grid; other semantic losses count for themselves."""


@MODELS.register_module()
class PhotoFusedSemanticHead(FusedSemanticHead):
    """HTC's own semantic branch, trained on every pixel of the photo (the loss that UPSNet's head has).

    HTC compares each cell with the top left pixel of the stride x stride that it covers, so that its map lies half a
    cell beside the photo: good enough for features, not for a result. It also resizes the levels with their corners
    aligned, which shifts coarse ones by up to half a cell of theirs; here cells are resized by their centres.
    """

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (N, num_classes, h, w) and embedding (N, channels, h, w) on the grid of `fusion_level`."""
        hw = levels[self.fusion_level].shape[-2:]
        resized = (F.interpolate(level, size=hw, mode="bilinear", align_corners=False) for level in levels)
        fused = sum(lateral(level) for lateral, level in zip(self.lateral_convs, resized, strict=True))
        for conv in self.convs:
            fused = conv(fused)
        return self.conv_logits(fused), self.conv_embedding(fused)

    def loss(self, logits: Tensor, class_indices: Tensor) -> Tensor:
        """Weighted cross entropy of the logits brought to `class_indices` (N, 1, H, W), void left out."""
        return self.criterion.loss_weight * upsampled_cross_entropy(logits, class_indices[:, 0].long())


@dataclass(frozen=True)
class HtcFeatures:
    """Of a batch of one image: P2-P6, the semantic logits (1, C, h, w) and the embedding that the RoI heads add."""

    pyramid: tuple[Tensor, ...]
    semantic_logits: Tensor
    semantic_embedding: Tensor


@MODELS.register_module()
class LwlHtc(HybridTaskCascade):
    """The network; made by `build_lwl_htc`. At test time it is an `inference.scorers.BoxScorer`.

    Unlike mmdet's, it keeps the semantic branch's output at test time and, with `average_mask_stages`, averages the
    masks of all three stages, as the paper does.
    """

    def __init__(
        self, *, semantic_stride: int, average_mask_stages: bool, uncertainty: Balance | None, **detector: Any
    ) -> None:
        super().__init__(**detector)
        self.semantic_stride = semantic_stride
        self.average_mask_stages = average_mask_stages
        self.weighting = None
        if uncertainty is not None:
            self.weighting = UncertaintyWeighting(balance=uncertainty, loss_names=LOSS_NAMES)

    def init_weights(self) -> None:
        """mmdet's, but logits start near chance, and the semantic branch's sum over L levels at the scale of one."""
        super().init_weights()
        semantic = self.roi_head.semantic_head
        start_at_chance(semantic.conv_logits)
        for box_head, mask_head in zip(self.roi_head.bbox_head, self.roi_head.mask_head, strict=True):
            start_at_chance(box_head.fc_cls)
            start_at_chance(mask_head.conv_logits)
        if isinstance(semantic, FusedSemanticHead):
            with torch.no_grad():
                for lateral in semantic.lateral_convs:
                    lateral.conv.weight /= sqrt(semantic.num_ins)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Any]:
        """All losses of a padded (N, 3, H, W) batch, balanced where `uncertainty` is learned."""
        is_mmdets = type(self.roi_head.semantic_head) is FusedSemanticHead
        with whole_batch_losses(self, LOSSES_OF | (FUSED_SEMANTIC_LOSS if is_mmdets else {})) as weigh:
            losses = super().loss(batch_inputs, batch_data_samples)
        losses = weigh(losses)
        return losses if self.weighting is None else self.weighting(losses)

    def extract(self, images: Tensor) -> HtcFeatures:
        pyramid = self.extract_feat(images)
        logits, embedding = self.roi_head.semantic_head(pyramid)
        return HtcFeatures(pyramid, logits, embedding)

    def propose(self, features: HtcFeatures, sample: DetDataSample) -> tuple[Tensor, Tensor]:
        return two_stage.propose_with_rpn(self.rpn_head, features.pyramid, sample)

    def score_boxes(
        self, features: HtcFeatures, boxes_xyxy: Tensor, input_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Boxes are refined stage after stage; class logits are averaged over the stages."""
        rois = two_stage.rois_of_one_image(boxes_xyxy)
        rois, (class_logits,), (deltas,) = self.roi_head._refine_roi(
            x=features.pyramid,
            rois=rois,
            batch_img_metas=[{"img_shape": input_hw}],
            num_proposals_per_img=(len(boxes_xyxy),),
            semantic_feat=features.semantic_embedding,
        )
        coder = self.roi_head.bbox_head[-1].bbox_coder
        return coder.decode(rois[0][:, 1:], deltas, max_shape=input_hw), class_logits.softmax(dim=1)

    def mask_logits(self, features: HtcFeatures, boxes_xyxy: Tensor, class_indices: Tensor) -> Tensor:
        """Logits of the mean mask probability of the three stages, or of the last stage alone."""
        rois = two_stage.rois_of_one_image(boxes_xyxy)
        extractor = self.roi_head.mask_roi_extractor[-1]
        roi_features = fused_roi_features(self.roi_head, extractor, features.pyramid, rois, features.semantic_embedding)
        stages = []
        previous = None
        for head in self.roi_head.mask_head:
            logits, previous = head(roi_features, previous)
            stages.append(logits[range(len(logits)), class_indices])
        if not self.average_mask_stages:
            return stages[-1]
        return torch.stack([logits.sigmoid() for logits in stages]).mean(dim=0).logit(eps=1e-6)

    def semantic_probabilities(self, features: HtcFeatures) -> Tensor:
        return features.semantic_logits[0].softmax(dim=0)


@dataclass(frozen=True, kw_only=True)
class HtcSettings(two_stage.DetectorSettings):
    """What an HTC is built with.

    With the location sensitive header the `mask_convs` convolutions of every stage feed its box regression too.
    `semantic_level` is the pyramid level that the semantic branch fuses to: 0 is stride 4, 1 is stride 8 (HTC's).
    `deformable_semantic_head` takes the DC head in place of HTC's own branch, with its convolutions shared by the
    levels or not; it has no `semantic_convs`. The semantic loss is that of every pixel of the photo, or HTC's, of one
    for each cell of the branch's grid.
    """

    location_sensitive_header: bool
    semantic_level: int
    semantic_convs: int
    semantic_loss_weight: float
    semantic_loss_on: Literal["photo", "grid"]
    deformable_semantic_head: Literal["shared", "per_level"] | None


def build_lwl_htc(*, average_mask_stages: bool, uncertainty: Balance | None, **settings: Any) -> LwlHtc:
    """An LWL-HTC of these HtcSettings with random heads; call `init_weights()` to load the backbone's.

    `uncertainty` learns the balance of the losses by task or by term; None leaves them as they are. Raises ModelError
    on an unknown backbone.
    """
    htc = HtcSettings(**settings)
    parts = htc_parts(htc)
    stride = two_stage.STRIDES[htc.semantic_level]
    return LwlHtc(semantic_stride=stride, average_mask_stages=average_mask_stages, uncertainty=uncertainty, **parts)


def htc_parts(htc: HtcSettings) -> dict[str, Any]:
    """What mmdet's HybridTaskCascade is made of. Raises ModelError on an unknown backbone."""
    backbone = describe_backbone(**htc.backbone)
    rcnn = [two_stage.rcnn_train_cfg(htc, positive_iou=iou) for iou in STAGE_IOUS]
    return {
        "neck": two_stage.fpn(backbone, htc.fpn_channels, htc.pyramid_norm),
        **two_stage.detector_parts(htc, backbone, roi_head=_cascade(htc), rcnn=rcnn),
    }


def _cascade(htc: HtcSettings) -> dict[str, Any]:
    """The RoI head: a box and a mask head for each stage, and the semantic branch."""
    channels, lsh = htc.fpn_channels, htc.location_sensitive_header
    own_box_head = {"type": LocationSensitiveBoxHead} if lsh else {}
    return {
        "type": LocationSensitiveCascadeRoIHead if lsh else HybridTaskCascadeRoIHead,
        "num_stages": len(STAGE_IOUS),
        "stage_loss_weights": list(STAGE_LOSS_WEIGHTS),
        "bbox_roi_extractor": two_stage.roi_extractor(channels=channels, size=two_stage.BOX_ROI_SIZE),
        "bbox_head": [
            two_stage.box_head(htc, class_agnostic=True, target_stds=stds) | own_box_head for stds in STAGE_BOX_STDS
        ],
        "mask_roi_extractor": two_stage.roi_extractor(channels=channels, size=two_stage.MASK_ROI_SIZE),
        "mask_head": [
            two_stage.mask_head(htc, kind="HTCMaskHead") | {"with_conv_res": stage > 0}
            for stage in range(len(STAGE_IOUS))
        ],
        "semantic_roi_extractor": two_stage.roi_extractor(
            channels=channels, size=two_stage.MASK_ROI_SIZE, strides=(two_stage.STRIDES[htc.semantic_level],)
        ),
        "semantic_head": _fused_head(htc) if htc.deformable_semantic_head is None else _deformable_head(htc),
    }


def _deformable_head(htc: HtcSettings) -> dict[str, Any]:
    return {
        "type": DeformableFusionHead,
        "num_levels": len(two_stage.STRIDES),
        "fusion_level": htc.semantic_level,
        "channels": htc.fpn_channels,
        "num_classes": htc.num_classes,
        "norm": htc.head_norm,
        "shared": htc.deformable_semantic_head == "shared",
        "loss_weight": htc.semantic_loss_weight,
        "loss_on": htc.semantic_loss_on,
    }


def _fused_head(htc: HtcSettings) -> dict[str, Any]:
    """HTC's own semantic branch (Chen et al. 2019, figure 3)."""
    return {
        "type": PhotoFusedSemanticHead if htc.semantic_loss_on == "photo" else FusedSemanticHead,
        "num_ins": len(two_stage.STRIDES),
        "fusion_level": htc.semantic_level,
        "seg_scale_factor": 1 / two_stage.STRIDES[htc.semantic_level],
        "num_convs": htc.semantic_convs,
        "in_channels": htc.fpn_channels,
        "conv_out_channels": htc.fpn_channels,
        "num_classes": htc.num_classes,
        "norm_cfg": norm_config(htc.head_norm, htc.fpn_channels),
        "loss_seg": {
            "type": "CrossEntropyLoss",
            "ignore_index": VOID_CLASS_INDEX,
            "avg_non_ignore": True,
            "loss_weight": htc.semantic_loss_weight,
        },
    }
