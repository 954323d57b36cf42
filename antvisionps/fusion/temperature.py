"""A temperature for each end's semantic probabilities (Guo et al. 2017, section 4.2): p is taken to the power 1 / T and
made to sum to 1 again, so that T above 1 makes an end less sure. The likeliest class stays.

It is fitted on held-out cells, by the mean of −log p of the true class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, RootModel

from antvisionps.core.documents import read_document
from antvisionps.core.json_files import write_json
from antvisionps.fusion.semantic_average import FLOOR
from antvisionps.panoptic.categories import VOID_CLASS_INDEX, CategorySet
from antvisionps.panoptic.segments import PanopticImage, class_index_map
from antvisionps.predictions.semantic import ImageSemantics

TEMPERATURES_FILE = "temperatures.json"
TRIED = 2.0 ** np.linspace(-2, 2, 33)

_Temperatures = RootModel[dict[str, Annotated[float, Field(ge=0.2, le=5)]]]


def temper(image: ImageSemantics, temperature: float) -> ImageSemantics:
    """The same probabilities at a temperature, rounded as the cache rounds. A cell without any stays so."""
    if temperature == 1:
        return image
    probs = (image.planes / np.float32(255)) ** np.float32(1 / temperature)
    sums = probs.sum(axis=0)
    return replace(image, planes=np.rint(255 * probs / np.where(sums > 0, sums, 1)).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class TemperatureLoss:
    """(33,) the sums of −log p of the true class at each of TRIED, over `cells`."""

    sums: np.ndarray
    cells: int

    @classmethod
    def of(
        cls, predicted: ImageSemantics, gt_ids: np.ndarray, image: PanopticImage, categories: CategorySet
    ) -> TemperatureLoss:
        """gt_ids (H, W) segment ids of the image. Cells on void do not count. A true class below FLOOR counts as FLOOR:
        what is less, the cache cannot tell from impossible."""
        gt = class_index_map(gt_ids[np.ix_(*predicted.pixels_of_cells())], image, categories)
        is_counted = gt != VOID_CLASS_INDEX
        gt = gt[is_counted]
        predicted_classes = [categories.class_index(category_id) for category_id in predicted.category_ids.tolist()]
        classes = np.union1d(predicted_classes, gt).astype(np.int64)  # the others are 0 everywhere
        probs = np.zeros((len(classes), len(gt)))
        for class_index, plane in zip(predicted_classes, predicted.planes, strict=True):
            cells = plane[: is_counted.shape[0], : is_counted.shape[1]]
            probs[np.searchsorted(classes, class_index)] = cells[is_counted] / 255
        gt = np.searchsorted(classes, gt)
        own = np.arange(len(gt))
        probs[gt, own] = np.maximum(probs[gt, own], FLOOR)
        with np.errstate(divide="ignore"):
            logs = np.log(probs)
        sums = [np.log(np.exp(logs / t).sum(axis=0)).sum() - logs[gt, own].sum() / t for t in TRIED.tolist()]
        return cls(np.array(sums), len(gt))

    @classmethod
    def total(cls, parts: Sequence[TemperatureLoss]) -> TemperatureLoss:
        return cls(np.sum([part.sums for part in parts], axis=0), sum(part.cells for part in parts))

    def best_temperature(self) -> float:
        """That of the least loss, by a parabola through the best tried one and its neighbours; 1 without cells."""
        if not self.cells:
            return 1.0
        best = int(self.sums.argmin())
        step = 0.0
        if 0 < best < len(TRIED) - 1:
            before, at, after = self.sums[best - 1 : best + 2].tolist()
            curvature = before - 2 * at + after
            step = (before - after) / (2 * curvature) if curvature > 0 else 0.0
        return float(TRIED[best] * (TRIED[1] / TRIED[0]) ** step)


def write_temperatures(calibration: Path, temperature_of_end: Mapping[str, float]) -> None:
    write_json(calibration / TEMPERATURES_FILE, dict(sorted(temperature_of_end.items())))


def read_temperatures(calibration: Path) -> dict[str, float]:
    """End → temperature, as stage calibrate fitted them; nothing without the file. Raises CacheError on a broken
    one."""
    path = calibration / TEMPERATURES_FILE
    if not path.exists():
        return {}
    found: dict[str, float] = read_document(
        path, _Temperatures, what="table of temperatures", remedy="run `dvc repro calibrate`"
    ).root
    return found
