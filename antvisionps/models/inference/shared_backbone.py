"""One backbone for several ends at test time, where all were trained on the same frozen one (the report's figure 1).

Nothing but the backbone's features is shared, and only where a network would have computed the very same: of the same
weights and of an input that is equal bit by bit. So the predictions are those of separate passes, to the last bit.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from antvisionps.core.errors import ModelError
from antvisionps.models.inference.end_networks import EndNetworks
from antvisionps.models.training.weights import read_network

WHOLLY_FROZEN = {"frozen_stages": 4, "frozen_norm": True}
"""Of a backbone's settings: training leaves every weight and every statistic of its norms as they are."""

REMEDY = (
    "train both on one frozen backbone (frozen_stages: 4, frozen_norm: true, the same name and weights), or list both "
    "ends in predict.separate_ends"
)


class RememberingBackbone(nn.Module):
    """A backbone that gives the features of the last `num_views` inputs again without computing them."""

    def __init__(self, backbone: nn.Module, *, num_views: int) -> None:
        super().__init__()
        self.backbone = backbone
        self._seen: deque[tuple[Tensor, tuple[Tensor, ...]]] = deque(maxlen=num_views)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        for seen, features in self._seen:
            if torch.equal(seen, images):
                return features
        features = self.backbone(images)
        self._seen.append((images, features))
        return features


def share_backbone(ends: Sequence[EndNetworks], *, num_views: int) -> None:
    """Gives networks of different ends one backbone.

    Of an ensemble those members take part whose backbone has the settings of another end's; the others keep their own.
    `num_views` counts the sizes and mirrorings at which an image is seen. Raises ModelError, with the first setting or
    tensor that differs, where no two ends have one backbone in common, or where one was not frozen.
    """
    groups: dict[str, list[_Member]] = {}
    for number, end in enumerate(ends):
        for network, (folder, *_) in zip(end.networks, end.folders, strict=True):
            member = _Member(number, folder, network)
            groups.setdefault(json.dumps(_settings(folder), sort_keys=True), []).append(member)
    common = [group for group in groups.values() if len({member.end for member in group}) > 1]
    if not common:
        ours, theirs = ends[0].folders[0][0], ends[-1].folders[0][0]
        raise _refusal(ours, theirs, _other_setting(ours, theirs))
    for first, *others in common:
        for other in others:
            difference = _unfrozen(first.folder) or _other_backbone(first.network, other.network)
            if difference:
                raise _refusal(first.folder, other.folder, difference)
    for group in common:
        backbone = RememberingBackbone(group[0].network.backbone, num_views=num_views)
        for member in group:
            member.network.backbone = backbone


@dataclass(frozen=True)
class _Member:
    end: int
    folder: Path
    network: Any


def _refusal(first: Path, second: Path, difference: str) -> ModelError:
    return ModelError(f"{second}: cannot share the backbone of {first}: {difference}; {REMEDY}")


def _settings(folder: Path) -> dict[str, Any]:
    """Of its backbone, but for where the weights came from: the weights themselves are compared."""
    return {key: value for key, value in read_network(folder).network["backbone"].items() if key != "weights"}


def _other_setting(first: Path, second: Path) -> str:
    """The first setting that differs, in words; empty where none does."""
    ours, theirs = _settings(first), _settings(second)
    for key in ours | theirs:
        if ours.get(key) != theirs.get(key):
            return f"its {key} is {theirs.get(key)}, the other's {ours.get(key)}"
    return ""


def _unfrozen(folder: Path) -> str:
    settings = _settings(folder)
    for key, value in WHOLLY_FROZEN.items():
        if settings.get(key) != value:
            return f"{key} is {settings.get(key)} in both, so that each has trained a backbone of its own"
    return ""


def _other_backbone(first: Any, second: Any) -> str:
    """The first tensor that differs, in words; empty where none does."""
    theirs = second.backbone.state_dict()
    for name, tensor in first.backbone.state_dict().items():
        if not torch.equal(tensor, theirs[name]):
            return f"backbone.{name} differs"
    return ""
