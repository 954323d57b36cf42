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
from antvisionps.models.training.weights import NETWORK_FILE, Network, load_weights, read_network
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
    they come from."""

    networks: Sequence[Any]
    weights: Sequence[float]
    max_proposals: int
    folders: Sequence[Path] = ()

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
) -> EndNetworks:
    """The trained members of an end, each from its folder of `models_dir`, in evaluation mode on `device`.

    `find_problem` tells what is wrong with an end's network settings, empty if nothing. Raises ModelError on such, and
    where the weights are of another architecture, of another end, or of other categories than `categories`.
    """
    folders = [models_dir / member for member in member_weights]
    networks = []
    for folder in folders:
        described = read_network(folder)
        if described.end != end:
            raise ModelError(f"{folder}: a network of {described.end}, expected one of {end}; put it back, or train it")
        if problem := find_problem(end, described.network):
            raise ModelError(f"{folder / NETWORK_FILE}: network.{problem}; train that network again")
        if described.categories != categories.to_json():
            raise ModelError(f"{folder}: trained on other categories than the data set has now; train it again")
        network = _build(described, test_proposals=max_proposals)
        load_weights(folder, network)
        networks.append(network.to(device).eval())
    return EndNetworks(networks, list(member_weights.values()), max_proposals, folders)


def _build(described: Network, *, test_proposals: int) -> BaseModel:
    return BUILDERS[described.end](
        num_things=described.num_things,
        num_classes=described.num_classes,
        test_proposals=test_proposals,
        **described.network,
    )
