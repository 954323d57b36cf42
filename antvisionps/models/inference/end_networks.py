"""The trained networks of an end, opened from their folders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel

from antvisionps.core.errors import ModelError
from antvisionps.models.e_ups.network import build_e_ups
from antvisionps.models.hrnet_aspp.network import build_hrnet_aspp
from antvisionps.models.inference.scorers import has_boxes
from antvisionps.models.lwl_htc.network import build_lwl_htc
from antvisionps.models.training.weights import NETWORK_FILE, Network, load_weights, read_network, snapshot_folders
from antvisionps.panoptic.categories import CategorySet

BUILDERS: dict[str, Callable[..., BaseModel]] = {
    "e_ups": build_e_ups,
    "lwl_htc": build_lwl_htc,
    "hrnet_aspp": build_hrnet_aspp,
}
"""What each end's networks are built with."""


@dataclass(frozen=True)
class EndNetworks:
    """The networks of an end, how much each counts, how many proposals of an image they score, and the folders that
    each comes from: several of a soup."""

    networks: Sequence[Any]
    weights: Sequence[float]
    max_proposals: int
    folders: Sequence[Sequence[Path]] = ()

    @property
    def has_instances(self) -> bool:
        """Whether they predict instances beside semantics."""
        return has_boxes(self.networks[0])


def open_networks(
    models_dir: Path,
    member_weights: Mapping[str, float],
    *,
    end: str,
    find_problem: Callable[[str, Mapping[str, Any]], str],
    categories: CategorySet,
    max_proposals: int,
    device: torch.device,
    snapshots: bool,
    soup: bool,
) -> EndNetworks:
    """The trained members of an end, each from its folder of `models_dir`, in evaluation mode on `device`.

    With `snapshots` those of a member are networks of their own, among which its weight is shared. With `soup` networks
    of the same settings become one.

    `find_problem` tells what is wrong with an end's network settings, empty if nothing. Raises ModelError on such, and
    where the weights are of another architecture, of another end, or of other categories than `categories`.
    """
    opened: list[_Opened] = []
    for member, weight in member_weights.items():
        folder = models_dir / member
        own = [*snapshot_folders(folder), folder] if snapshots else [folder]
        for folder in own:
            described = _read_checked(folder, end, find_problem, categories)
            network = _build(described, test_proposals=max_proposals)
            load_weights(folder, network)
            opened.append(_Opened(described.network, network.to(device).eval(), weight / len(own), (folder,)))
    if soup:
        opened = _soups(opened)
    networks, weights, folders = ([getattr(one, name) for one in opened] for name in ("network", "weight", "folders"))
    return EndNetworks(networks, weights, max_proposals, folders)


def _read_checked(
    folder: Path, end: str, find_problem: Callable[[str, Mapping[str, Any]], str], categories: CategorySet
) -> Network:
    described = read_network(folder)
    if described.end != end:
        raise ModelError(f"{folder}: a network of {described.end}, expected one of {end}; put it back, or train it")
    if problem := find_problem(end, described.network):
        raise ModelError(f"{folder / NETWORK_FILE}: network.{problem}; train that network again")
    if described.categories != categories.to_json():
        raise ModelError(f"{folder}: trained on other categories than the data set has now; train it again")
    return described


@dataclass(frozen=True)
class _Opened:
    settings: Mapping[str, Any]
    network: BaseModel
    weight: float
    folders: Sequence[Path]


def _soups(opened: Sequence[_Opened]) -> list[_Opened]:
    """Of the networks of each settings the first, with the weighted mean of all their weights (Wortsman et al. 2022,
    "Model soups", section 2, the uniform soup). Integers, as batch norm's counts, are the first's."""
    groups: list[list[_Opened]] = []
    for one in opened:
        alike = next((group for group in groups if group[0].settings == one.settings), None)
        groups.append([one]) if alike is None else alike.append(one)
    return [_soup(group) for group in groups]


def _soup(alike: Sequence[_Opened]) -> _Opened:
    total = sum(one.weight for one in alike)
    first, *others = (one.network.state_dict() for one in alike)
    for name, mean in first.items():
        if mean.is_floating_point():
            # What all have in common, as a frozen backbone, stays as it is to the bit.
            apart = [other[name] - mean for other in others]
            mean += sum(one.weight / (total or 1) * apart_by for one, apart_by in zip(alike[1:], apart, strict=True))
    return _Opened(alike[0].settings, alike[0].network, total, [folder for one in alike for folder in one.folders])


def _build(described: Network, *, test_proposals: int) -> BaseModel:
    return BUILDERS[described.end](
        num_things=described.num_things,
        num_classes=described.num_classes,
        test_proposals=test_proposals,
        **described.network,
    )
