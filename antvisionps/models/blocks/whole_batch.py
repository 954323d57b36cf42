"""A batch that several processes share, trained on as if one process had all of it.

DDP averages the processes' gradients, each of the process's own images. A loss is a mean over anchors, RoIs, masks or
pixels, of which the images have different numbers, so the mean of the processes' means is not the mean of the batch:
that is sum(n_r L_r) / sum(n_r), for a mean L_r over n_r of them on process r. So each of W processes takes
W n_r / sum(n) times its L_r, whose plain average is the batch's loss, and so is its gradient. Batch norm looks at the
whole batch too. Each process pads its own images: padding is void, and no anchor there counts. With one process,
nothing here changes anything.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed.nn.functional
from mmengine.dist import all_gather, all_reduce, get_world_size
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

Losses = dict[str, Any]
"""Of mmdet: a tensor, or a list of one for each pyramid level."""


def shared_count(count: Tensor) -> Tensor:
    """Divisor of a sum over this process's `count` elements: the processes' quotients then average to the mean over all
    elements. Never zero."""
    processes = get_world_size()
    if processes == 1:
        return count.clamp(min=1)
    total = count.clone()
    all_reduce(total)
    return total.clamp(min=1) / processes


def hardest(losses: Tensor, frac: float) -> Tensor:
    """Those of this process's (n,) losses that are among the largest `frac` (rounded up) of all processes' losses.

    With several processes, all losses that equal the smallest of these are taken.
    """
    if get_world_size() == 1:
        return losses.topk(math.ceil(frac * len(losses)), sorted=False).values
    counts = [int(count) for count in all_gather(torch.tensor([len(losses)], device=losses.device))]
    padded = losses.new_full((max(counts),), -math.inf)
    padded[: len(losses)] = losses.detach()
    everywhere = torch.cat(all_gather(padded))
    kept = math.ceil(frac * sum(counts))
    return losses[losses >= everywhere.topk(kept).values.min()] if kept else losses


@contextmanager
def whole_batch_losses(
    detector: nn.Module, losses_of: Mapping[str, Sequence[str]]
) -> Iterator[Callable[[Losses], Losses]]:
    """While a detector computes its losses, counts the elements that each is a mean over. Yields a function that weighs
    the losses by this process's part of these elements.

    `losses_of` maps a loss module of the detector to the losses that are means over the elements that the module gets;
    a module that is not called gets none. A loss that is missing is zero.
    """
    if get_world_size() == 1:
        yield lambda losses: losses
        return
    counts = dict.fromkeys(losses_of, 0.0)

    def count(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _loss: Tensor) -> None:
        if kwargs.get("avg_factor") is not None:
            counts[name] = float(kwargs["avg_factor"])
        elif getattr(module, "avg_non_ignore", False):
            counts[name] = float((args[1] != module.ignore_index).sum())
        else:
            counts[name] = float(len(args[0]))

    hooks = [
        detector.get_submodule(name).register_forward_hook(partial(count, name), with_kwargs=True) for name in losses_of
    ]
    try:
        yield lambda losses: _weighed(losses, losses_of, list(counts.values()))
    finally:
        for hook in hooks:
            hook.remove()


def _weighed(losses: Losses, losses_of: Mapping[str, Sequence[str]], own_counts: Sequence[float]) -> Losses:
    example = next(part for value in losses.values() for part in (value if isinstance(value, list) else [value]))
    counts = torch.tensor(own_counts, dtype=torch.float64, device=example.device)
    totals = counts.clone()
    all_reduce(totals)
    weights = (counts * get_world_size() / totals.clamp(min=1)).float()
    for names, weight in zip(losses_of.values(), weights, strict=True):
        for name in names:
            value = losses.get(name, example.new_zeros(()))
            losses[name] = [weight * part for part in value] if isinstance(value, list) else weight * value
    return losses


def share_batch(model: Any, device: torch.device) -> Any:
    """The model with the batch norm that learns over the photos of all processes.

    Those that are frozen compute as before. On a GPU torch's SyncBatchNorm, which is no BatchNorm2d, takes their place.
    """
    if device.type == "cuda":
        shared = convert_sync_batchnorm(model)
        for module in shared.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.register_forward_pre_hook(_widen_nothing)
        return shared
    norms: list[Any] = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.forward = partial(_shared_batch_norm, norm)
    return model


def _widen_nothing(_norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
    """In float32 where there is no element: torch sends the count of an empty batch in the batch's type, any other in
    float32, and processes that send different types hang."""
    (x,) = args
    return None if x.numel() else (x.float(),)


def _shared_batch_norm(norm: Any, x: Tensor) -> Tensor:
    """Batch norm of (N, C, H, W) over the images of all processes; torch's SyncBatchNorm knows no CPU."""
    if not norm.training:
        return type(norm).forward(norm, x)
    summed = torch.distributed.nn.functional.all_reduce  # whose gradient is that of all processes' losses
    count = summed(x.new_tensor(x.numel() / x.shape[1]))
    if not count:  # no process has an element, as where no photo has a thing
        return x * norm.weight[:, None, None] + norm.bias[:, None, None]
    mean = summed(x.sum(dim=(0, 2, 3))) / count
    centred = x - mean[:, None, None]
    variance = summed(centred.square().sum(dim=(0, 2, 3))) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1).clamp(min=1), norm.momentum)
    y = centred * (norm.weight / torch.sqrt(variance + norm.eps))[:, None, None] + norm.bias[:, None, None]
    return norm.act(norm.drop(y)) if isinstance(norm, BatchNormAct2d) else y
