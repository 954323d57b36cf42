"""The feature pyramid of E-UPS: FPN, UPSNet's image context at its top, Libra R-CNN's balancing after it."""

from typing import Any

from mmcv.cnn.bricks import NonLocal2d
from mmdet.models.necks import BFP
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from antvisionps.models.blocks import two_stage
from antvisionps.models.blocks.backbones import BackboneSpec
from antvisionps.models.blocks.norms import Norm, norm_layer, start_at_scale


def feature_pyramid(
    backbone: BackboneSpec, *, channels: int, norm: Norm | None, image_context: bool, balanced_level: int | None
) -> dict[str, Any] | list[dict[str, Any]]:
    """mmdet's config of P2 to P6.

    `image_context` adds the globally pooled last feature to P5's lateral. `balanced_level` is the level, counted from
    P2, that Libra's balanced pyramid gathers and refines at (2, the middle one, in Libra); None leaves it out.
    """
    fpn = two_stage.fpn(backbone, channels, norm)
    if image_context:
        fpn["type"] = ContextFPN
    if balanced_level is None:
        return fpn
    sizes = {"in_channels": channels, "num_levels": len(two_stage.STRIDES), "refine_level": balanced_level}
    return [fpn, {"type": BalancedFeaturePyramid, **sizes, "norm": norm}]


@MODELS.register_module()
class ContextFPN(two_stage.FeaturePyramid):
    """The FPN with UPSNet's term: the mean over all pixels of the last feature (res5), projected to the pyramid's
    channels, is added to P5's lateral and so reaches all levels (Xiong et al. 2019, section 3.1)."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lateral_convs[-1] = LateralWithContext(self.lateral_convs[-1], self.in_channels[-1], self.out_channels)


class LateralWithContext(nn.Module):
    """(N, C, h, w) to lateral(x) + project(mean of x over all pixels), (N, out_channels, h, w)."""

    def __init__(self, lateral: nn.Module, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lateral = lateral
        self.project = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.lateral(x) + self.project(x.mean(dim=(2, 3), keepdim=True))


@MODELS.register_module()
class BalancedFeaturePyramid(BFP):
    """mmdet's BFP with non-local refinement (Pang et al. 2019, section 3.2), in less memory: levels are resized to one,
    averaged, refined, and the result is added back to every level. With `norm`, one a level gives the sum the levels'
    scale."""

    def __init__(self, *, in_channels: int, num_levels: int, refine_level: int, norm: Norm | None) -> None:
        super().__init__(in_channels, num_levels, refine_level=refine_level, refine_type="non_local")
        self.refine = FusedNonLocal(in_channels, reduction=1, use_scale=False)
        self.norms = nn.ModuleList(norm_layer(norm, in_channels) for _ in range(num_levels))

    def init_weights(self) -> None:
        super().init_weights()
        start_at_scale(self.norms)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(norm(level) for norm, level in zip(self.norms, super().forward(inputs), strict=True))


class FusedNonLocal(NonLocal2d):
    """mmcv's non-local block by torch's fused attention, which never holds the (pixels x pixels) matrix.

    That matrix is what keeps the block from large images: 4,096 pixels (1024 px at stride 16) make 64 MB an image for
    the product, as much for its softmax, and both are kept for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        # The fused kernels want (N, 1, h * w, C) with channels last in memory; torch takes the slow way without a word.
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None].contiguous() for layer in (self.theta, self.phi, self.g)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.conv_out(attended[:, 0].transpose(1, 2).reshape(x.shape))
