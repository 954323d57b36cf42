"""How a network is optimised, and in how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from antvisionps.errors import ModelError


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
) -> dict[str, Any]:
    """mmengine's config of AdamW or SGD without weight decay on biases and norms.

    `autocast` is None, "bfloat16" or "float16" (with a loss scale that adapts itself). The gradients of
    `accumulated_batches` are averaged before each step. Raises ModelError on autocast without a CUDA device.
    """
    optimizer: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    optimizer |= {"type": "SGD", "momentum": momentum} if kind == "sgd" else {"type": "AdamW"}
    return {
        **_precision(autocast),
        "optimizer": optimizer,
        "accumulative_counts": accumulated_batches,
        "clip_grad": {"max_norm": max_grad_norm} if max_grad_norm else None,
        "paramwise_cfg": {
            "norm_decay_mult": 0.0,
            "bias_decay_mult": 0.0,
            "bias_lr_mult": bias_lr_factor,
            "custom_keys": {"backbone": {"lr_mult": backbone_lr_factor}, "log_variance": {"decay_mult": 0.0}},
        },
    }


def _precision(autocast: str | None) -> dict[str, Any]:
    if autocast is None:
        return {"type": "OptimWrapper"}
    if not torch.cuda.is_available():
        raise ModelError(
            f"memory.autocast is {autocast}, which needs a CUDA device, and torch sees none; set it to null"
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
