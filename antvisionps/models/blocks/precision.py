"""What has to be computed in float32 at least, whatever autocast chose."""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least: not every kernel takes half precision, and positions suffer in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).contiguous()
