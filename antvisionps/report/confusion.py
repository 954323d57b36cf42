"""What is taken for what: pixels and segments of each true and predicted category, of the split and of each image."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from antvisionps.core.csv_files import write_csv
from antvisionps.panoptic.categories import CategorySet

Json = dict[str, Any]

PIXELS, SEGMENTS = 0, 1
PAIRS_ID = "pairs"
"""What the page's script of pairs says that it is."""


class Confusion:
    """The sum over images, added in their order, and what each of them has beside the diagonal."""

    def __init__(self, systems: Iterable[str], categories: CategorySet) -> None:
        size = len(categories) + 1
        self._total = {system: np.zeros((2, size, size), dtype=np.int64) for system in systems}
        self._pairs: dict[str, list[list[np.ndarray]]] = {system: [] for system in self._total}

    def add(self, confused: Mapping[str, np.ndarray]) -> None:
        """System → (2, C + 1, C + 1) of an image; the last class index is void, of segments nothing."""
        for system, of_image in confused.items():
            self._total[system] += of_image
            self._pairs[system].append([_beside_the_diagonal(counted) for counted in of_image])

    def pixels(self) -> dict[str, np.ndarray]:
        """System → (C + 1, C + 1)."""
        return {system: total[PIXELS] for system, total in self._total.items()}

    def totals(self) -> Json:
        """For the overview: the confusion of pixels and that of segments, by system."""
        names = {PIXELS: "confusion", SEGMENTS: "segment_confusion"}
        return {
            name: {system: confusion_triples(total[kind]) for system, total in self._total.items()}
            for kind, name in names.items()
        }

    def pairs(self) -> Json:
        """Of each system, pixels and segments: a list an image, of triples one after the other."""
        names = {PIXELS: "pixels", SEGMENTS: "segments"}
        systems = {
            system: {name: [of_image[kind].tolist() for of_image in images] for kind, name in names.items()}
            for system, images in self._pairs.items()
        }
        return {"id": PAIRS_ID, "systems": systems}


def _beside_the_diagonal(confused: np.ndarray) -> np.ndarray:
    return np.array(confusion_triples(confused * ~np.eye(len(confused), dtype=bool)), dtype=np.int32).ravel()


def confusion_triples(confused: np.ndarray) -> list[list[int]]:
    """[true class index, predicted class index, number] of the pairs that occur; the last class index is void."""
    gt, predicted = np.nonzero(confused)
    return np.stack([gt, predicted, confused[gt, predicted]], axis=1).tolist()


def write_confusion_csv(path: Path, confused_px: Mapping[str, np.ndarray], categories: CategorySet) -> None:
    """A row for each system and pair of categories that share pixels: truth, prediction, pixels, share of the truth's.

    Void comes last on both sides: what nobody labelled, and what nobody predicted.
    """
    names = [*(category.name for category in categories.categories), "(void)"]
    rows = (
        [system, names[gt], names[predicted], pixels, f"{pixels / confused[gt].sum():.4f}"]
        for system, confused in confused_px.items()
        for gt, predicted, pixels in confusion_triples(confused)
    )
    write_csv(path, ["system", "truth", "prediction", "pixels", "share"], rows)
