"""The location sensitive header in every stage of a Hybrid Task Cascade (the report's figure 1 draws it on both ends).

The convolutions of a stage's mask head are the tower: box regression reads what they give, so that the boxes and masks
of a stage share features, and mask information flow from the stages before reaches both. Classification has 7x7 RoI
features of its own. Semantic features are added to the RoI features of both, as in HTC.
"""

from mmdet.models.roi_heads import HybridTaskCascadeRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

Pyramid = tuple[Tensor, ...]


@MODELS.register_module()
class LocationSensitiveCascadeRoIHead(HybridTaskCascadeRoIHead):
    """mmdet's cascade with the header; made of a LocationSensitiveBoxHead and an HTCMaskHead a stage.

    The masks are mmdet's; box regression alone changes.
    """

    def locate(self, stage: int, pyramid: Pyramid, rois: Tensor, embedding: Tensor) -> Tensor:
        """(K, C, 14, 14) features that box regression and mask of this stage share, of (K, 5) RoIs: index in the batch,
        box xyxy. Every tower before it runs on the same RoIs and is added (Chen et al. 2019, figure 2 c)."""
        roi_features = fused_roi_features(self, self.mask_roi_extractor[stage], pyramid, rois, embedding)
        located = self.mask_head[0](roi_features, return_logits=False)
        for head in self.mask_head[1 : stage + 1]:
            located = head(roi_features, located, return_logits=False)
        return located

    def _bbox_forward(self, stage: int, x: Pyramid, rois: Tensor, semantic_feat: Tensor) -> dict[str, Tensor]:
        class_features = fused_roi_features(self, self.bbox_roi_extractor[stage], x, rois, semantic_feat)
        class_logits, deltas = self.bbox_head[stage](class_features, self.locate(stage, x, rois, semantic_feat))
        return {"cls_score": class_logits, "bbox_pred": deltas}


def fused_roi_features(
    roi_head: HybridTaskCascadeRoIHead, extractor: SingleRoIExtractor, pyramid: Pyramid, rois: Tensor, embedding: Tensor
) -> Tensor:
    """(K, C, size, size) of (K, 5) RoIs: what `extractor` takes from the pyramid, plus the semantic embedding (HTC's
    semantic fusion)."""
    roi_features = extractor(pyramid[: extractor.num_inputs], rois)
    semantic = roi_head.semantic_roi_extractor([embedding], rois)
    return roi_features + F.adaptive_avg_pool2d(semantic, roi_features.shape[-2:])
