"""The networks that some params train, each with what it takes to try it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from antvisionps.params.training import Ensemble, Training
from antvisionps.params.whole import Params


@dataclass(frozen=True)
class TrainedNetwork:
    """One network of an end. `settings` are what it is built with, `training` is its end's section of the params,
    `backbone` what its pretrained weights are called, None for random ones."""

    end: str
    member: str
    settings: dict[str, Any]
    training: Training
    backbone: str | None

    @property
    def name(self) -> str:
        return f"{self.end} {self.member}"


def networks_of(params: Params) -> Iterator[TrainedNetwork]:
    """Every network that `ends` trains, end by end."""
    sections: dict[str, Training] = {"e_ups": params.train_e_ups, "hrnet_aspp": params.train_hrnet_aspp}
    for end in params.ends:
        section = sections.get(end, params.train_lwl_htc)
        described = (
            {member: section.network(member) for member in section.members}
            if isinstance(section, Ensemble)
            else {"base": params.train_lwl_htc.network.model_dump(mode="json")}
        )
        for member, settings in described.items():
            yield TrainedNetwork(end, member, settings, section, _backbone(settings["backbone"]))


def _backbone(settings: dict[str, Any]) -> str | None:
    if settings["weights"] != "imagenet":
        return None
    return settings["name"] if "name" in settings else f"timm:hrnet_w{settings['width']}"
