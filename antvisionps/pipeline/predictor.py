"""The whole system on any picture: all ends' networks, their predictions as the cache would hold them, and the fusion.

    from antvisionps.pipeline.predictor import open_predictor
    predict = open_predictor("data/models")
    fused = predict(photo)   # (H, W, 3) uint8 RGB → fused.segment_ids (H, W), fused.segments, fused.rejected

The map of a photo is the one that stages predict and fuse make of it, byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antvisionps.core.errors import DataError, ParamsError
from antvisionps.fusion.heuristic import FusedImage
from antvisionps.fusion.system import FusionSettings, fuse_predictions
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.training import network_problem
from antvisionps.params.whole import FUSION_SYSTEM, Params, load_params
from antvisionps.pipeline.settings import system_settings

if TYPE_CHECKING:
    import torch

    from antvisionps.models.inference.end_networks import EndNetworks
    from antvisionps.models.inference.views import PredictionSettings

NO_IMAGE_ID = 0
"""A photo out of no data set has no id; only messages name it."""


@dataclass(frozen=True)
class PanopticPredictor:
    """Call it with a photo."""

    ends: Mapping[str, EndNetworks]
    categories: CategorySet
    prediction: PredictionSettings
    fusion: FusionSettings

    def __call__(self, photo: np.ndarray) -> FusedImage:
        """The panoptic map of an (H, W, 3) uint8 RGB photo. Raises DataError on any other array."""
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
            raise DataError(f"expected a photo (H, W, 3) of uint8 RGB, got {photo.shape} {photo.dtype}")
        from antvisionps.models.inference.predict_photo import predict_photo

        described: Any = {"image_id": NO_IMAGE_ID, "categories": self.categories}
        predicted = {name: predict_photo(photo, end, self.prediction, **described) for name, end in self.ends.items()}
        weight_of_end = self.fusion.weight_of_end
        return fuse_predictions(
            {name: instances.sorted_by_score() for name, (instances, _) in predicted.items() if instances is not None},
            {name: semantics for name, (_, semantics) in predicted.items() if weight_of_end[name] > 0},
            categories=self.categories,
            settings=self.fusion,
        )


def open_predictor(
    models_dir: str | Path,
    *,
    system: str = FUSION_SYSTEM,
    params_path: str | Path = "params.yaml",
    routing_dir: str | Path = "data/routing",
    calibration_dir: str | Path = "data/calibration",
    device: str | None = None,
) -> PanopticPredictor:
    """The system `fusion`, or one end alone, with its trained networks; needs the models' packages.

    `device`: auto, cpu or cuda; None takes runtime.device. torch is told to compute reproducibly on the CPU, with
    runtime.cpu_threads, for the whole process. Raises ParamsError, ModelError and CacheError where parameters, networks
    or the routing are missing or do not fit.
    """
    params = load_params(Path(params_path))
    params.refuse_unknown_system(system)
    names = params.all_ends if system == FUSION_SYSTEM else (system,)
    imported = [name for name in names if name not in params.ends]
    if imported:
        raise ParamsError(f"{system}: {', '.join(imported)} is imported, with no network to run; name another system")
    categories = _read_categories(Path(models_dir), params, names[0])
    settings = system_settings(
        system, params, categories=categories, routing=Path(routing_dir), calibration=Path(calibration_dir)
    )
    from antvisionps.models.inference.views import PredictionSettings
    from antvisionps.models.training.device import select_device

    selected = select_device(device or params.runtime.device, cpu_threads=params.runtime.cpu_threads)
    taken = [name for name in names if name in settings.weight_of_end]  # method auto may leave ends out
    ends = _open_ends(Path(models_dir), params, taken, categories, selected)
    return PanopticPredictor(ends, categories, PredictionSettings(**params.predict.keyword_arguments()), settings)


def _read_categories(models_dir: Path, params: Params, end: str) -> CategorySet:
    """Those that the first network was trained on; `open_networks` holds the others to them."""
    from antvisionps.models.training.weights import NETWORK_FILE, read_network

    folder = models_dir / end / next(iter(params.weight_of_member(end)))
    return CategorySet.from_json(read_network(folder).categories, where=str(folder / NETWORK_FILE))


def _open_ends(
    models_dir: Path, params: Params, names: Sequence[str], categories: CategorySet, device: torch.device
) -> dict[str, EndNetworks]:
    from antvisionps.models.inference.end_networks import open_networks

    ends = {
        name: open_networks(
            models_dir / name,
            params.weight_of_member(name),
            end=name,
            find_problem=network_problem,
            categories=categories,
            max_proposals=params.predict.max_proposals,
            device=device,
            snapshots=params.predict.snapshots,
            soup=params.predict.soup,
        )
        for name in names
    }
    if not any(end.has_instances for end in ends.values()):
        raise ParamsError(
            f"{', '.join(names)}: predicts no instances, so there is no panoptic map; name another system"
        )
    return ends
