"""How a network is optimised, and in how much memory."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from antvisionps.core.errors import ModelError


def optim_wrapper(
    *,
    kind: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
    backbone_lr_factor: float,
    bias_lr_factor: float,
    max_grad_norm: float | None,
    autocast: str | None,
    accumulated_batches: int,
    offset_lr_factor: float = 1.0,
    log_variance_lr_factor: float = 1.0,
) -> dict[str, Any]:
    """mmengine's config of AdamW or SGD without weight decay on biases, norms and learned log-variances.

    The rates of the backbone, of biases, of what gives deformable convolutions their offsets and of log-variances are
    multiplied by their factors; a parameter that is several of these gets all of theirs.

    `autocast` is None, "bfloat16" or "float16" (with a loss scale that adapts itself). The gradients of
    `accumulated_batches` are averaged before each step. Raises ModelError on autocast without a CUDA device.
    """
    optimizer: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    optimizer |= {"type": "SGD", "momentum": momentum} if kind == "sgd" else {"type": "AdamW", "fused": True}
    return {
        **_precision(autocast),
        "optimizer": optimizer,
        "accumulative_counts": accumulated_batches,
        "clip_grad": {"max_norm": max_grad_norm} if max_grad_norm else None,
        "constructor": FactorsConstructor,
        "paramwise_cfg": {
            "backbone_lr_factor": backbone_lr_factor,
            "bias_lr_factor": bias_lr_factor,
            "offset_lr_factor": offset_lr_factor,
            "log_variance_lr_factor": log_variance_lr_factor,
        },
    }


NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
LOG_VARIANCE = "log_variance"
"""Name of the dictionary of learned log-variances, wherever it stands in a model."""

OFFSETS = "conv_offset"
"""mmcv's name of the convolution that gives a deformable one its offsets."""


class FactorsConstructor(DefaultOptimWrapperConstructor):
    """A group of parameters for each rate and decay; the first has the base rate, which the curves show.

    mmengine's own rules for biases and norms skip every parameter whose name another rule ("backbone") matches, and the
    biases of deformable convolutions.
    """

    def _validate_cfg(self) -> None:
        """mmengine knows other keys."""

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        groups: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        groups[1.0, 1.0] = []
        seen: set[nn.Parameter] = set()
        for place, owner in module.named_modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    groups[self._factors(place, owner, name)].append(parameter)
                    seen.add(parameter)
        for (of_rate, of_decay), parameters in groups.items():
            params.append({"params": parameters, "lr": self.base_lr * of_rate, "weight_decay": self.base_wd * of_decay})

    def _factors(self, place: str, owner: nn.Module, name: str) -> tuple[float, float]:
        """Of the learning rate and of the weight decay."""
        parts, factors = place.split("."), self.paramwise_cfg
        if parts[-1] == LOG_VARIANCE:
            return factors["log_variance_lr_factor"], 0.0
        of_rate = factors["backbone_lr_factor"] if parts[0] == "backbone" else 1.0
        if parts[-1] == OFFSETS:
            of_rate *= factors["offset_lr_factor"]
        if isinstance(owner, NORMS):
            return of_rate, 0.0
        if name == "bias":
            return of_rate * factors["bias_lr_factor"], 0.0
        return of_rate, 1.0


def _precision(autocast: str | None) -> dict[str, Any]:
    if autocast is None:
        return {"type": "OptimWrapper"}
    if get_device() != "cuda":
        raise ModelError(
            f"optimizer.autocast is {autocast}, which needs a CUDA device, and torch sees none; set it to null"
        )
    # bfloat16 has float32's range, so that nothing has to be scaled.
    loss_scale = "dynamic" if autocast == "float16" else {"enabled": False}
    return {"type": "AmpOptimWrapper", "dtype": autocast, "loss_scale": loss_scale}


def save_memory(model: Any, *, checkpointed_stages: Sequence[int], channels_last: bool) -> None:
    """Makes the model's backbone train in less memory; what it computes stays the same.

    Of the stages in `checkpointed_stages` (1 to 4) only the input of every block is kept, and the rest is computed
    again in the backward pass. `channels_last` orders convolution weights, and so activations, as GPUs' tensor cores
    like them. Raises ModelError where batch norm would count what is computed twice.
    """
    if channels_last:
        model.backbone.to(memory_format=torch.channels_last)
    if not checkpointed_stages:
        return
    model.backbone.train()
    stages = model.backbone.blocks_of_stages()
    for stage in checkpointed_stages:
        for block in stages[stage - 1]:
            if any(isinstance(module, nn.BatchNorm2d) and module.training for module in block.modules()):
                raise ModelError(
                    f"checkpointed_stages lists {stage}, but batch norm learns its statistics there, and would count "
                    "every batch twice; set the backbone's frozen_norm to true, or checkpoint no stage"
                )
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
