"""HRNet: branches at strides 4, 8, 16 and 32 that run side by side and exchange features (Wang et al. 2020)."""

from collections.abc import Sequence
from typing import Any

from mmdet.models.backbones import HRNet
from mmdet.registry import MODELS
from torch import Tensor, nn

from antvisionps.core.errors import ModelError
from antvisionps.models.blocks.backbones import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, BackboneSpec
from antvisionps.models.blocks.state_dicts import (
    pretrained_timm,
    read_state_dict,
    refuse_missing_file,
    refuse_other_architecture,
)

STAGE1_CHANNELS = 256
"""Of stage 1 in all of them: bottlenecks of 64 channels at stride 4."""


def describe_hrnet(
    *, width: int, modules: Sequence[int], blocks: int, weights: str | None, frozen_norm: bool
) -> BackboneSpec:
    """The HRNet of that width; its `channels` are those of the four branches.

    `modules` counts the multi-resolution modules of stages 2, 3 and 4, `blocks` the residual blocks of a branch in
    each, and those of stage 1; the published networks have 1, 4, 3 and 4. `weights` is None (random), "imagenet"
    (timm's, of the published networks) or a file. `frozen_norm` keeps batch norm in eval mode. Raises ModelError on a
    missing file.
    """
    refuse_missing_file(weights)
    channels = (width, 2 * width, 4 * width, 8 * width)
    stages = {
        f"stage{branches}": _stage("BASIC", channels[:branches], modules=count, blocks=blocks)
        for branches, count in zip((2, 3, 4), modules, strict=True)
    }
    config = {
        "type": HrnetBackbone,
        "weights": f"timm:hrnet_w{width}" if weights == "imagenet" else weights,
        "extra": {"stage1": _stage("BOTTLENECK", (64,), modules=1, blocks=blocks), **stages},
        "norm_cfg": {"type": "BN", "requires_grad": not frozen_norm},
        "norm_eval": frozen_norm,
    }
    return BackboneSpec(config, channels, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB)


def _stage(block: str, channels: Sequence[int], *, modules: int, blocks: int) -> dict[str, Any]:
    return {
        "num_modules": modules,
        "num_branches": len(channels),
        "block": block,
        "num_blocks": (blocks,) * len(channels),
        "num_channels": tuple(channels),
    }


@MODELS.register_module()
class HrnetBackbone(HRNet):
    """mmdet's HRNet, which gives the features of stage 1 too and whose weights are checked."""

    def __init__(self, *, weights: str | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._weights = weights

    def init_weights(self) -> None:
        """mmdet's random weights, then what the file (or timm) holds."""
        super().init_weights()
        if self._weights is None:
            return
        if self._weights.startswith("timm:"):  # its names are those of the authors' code, and so mmdet's
            source = pretrained_timm(self._weights.removeprefix("timm:")).state_dict()
        else:
            source = read_state_dict(self._weights)
        wanted = self.state_dict()
        refuse_other_architecture(wanted, source, where=self._weights)
        # A classifier's file goes on behind the last stage; a deeper network's has more inside of our modules.
        surplus = [name for name in source if name not in wanted and hasattr(self, name.partition(".")[0])]
        if surplus:
            raise ModelError(
                f"{self._weights}: weights of another architecture: {surplus[0]} is not part of this network; set the "
                "backbone's modules and blocks to those of the file"
            )
        self.load_state_dict({name: source[name] for name in wanted if name in source}, strict=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to stage 1's (N, 256, H/4, W/4) and the branches, (N, width · 2^k, H/4/2^k, W/4/2^k)."""
        x = self.relu(self.norm1(self.conv1(images)))
        first = self.layer1(self.relu(self.norm2(self.conv2(x))))
        branches = [first]
        for number in (2, 3, 4):
            transition = getattr(self, f"transition{number - 1}")
            # A branch that is new, or changes its channels, comes from the coarsest one there is.
            inputs = [branches[k] if change is None else change(branches[-1]) for k, change in enumerate(transition)]
            branches = getattr(self, f"stage{number}")(inputs)
        return (first, *branches)

    def blocks_of_stages(self) -> list[list[nn.Module]]:
        """The residual blocks of each of the four stages."""
        stages = [self.stage2, self.stage3, self.stage4]
        later = [[block for module in stage for branch in module.branches for block in branch] for stage in stages]
        return [list(self.layer1), *later]
