"""The caches of several ends side by side. An end has instances, semantics or both; which, its files tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.splits import SplitName, dataset_fingerprint, open_split
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheIdentity, cache_path
from antvisionps.predictions.semantic import SemanticReader


@dataclass(frozen=True)
class SplitCaches:
    """Opens the caches of one split, each checked against the split's images, categories and fingerprint."""

    predictions_dir: Path
    split: SplitName
    dataset_fingerprint: str
    dataset: PanopticDataset

    @classmethod
    def open(cls, predictions_dir: Path, prepared: Path, split: SplitName) -> SplitCaches:
        """The caches of a split that stage prepare wrote."""
        return cls(predictions_dir, split, dataset_fingerprint(prepared), open_split(prepared, split))

    def open_instances(self, ends: Sequence[str], *, mask_probs: bool = False) -> dict[str, InstancesReader]:
        """end → reader of those ends that have instances. A mask is checked when it is used.

        Raises CacheError if none has, unless there are no things.
        """
        readers = {
            end: InstancesReader(
                path, self._identity(end), images=self._images(), mask_probs=mask_probs, check_masks=False
            )
            for end, path in self._existing(ends, INSTANCES_FILE)
        }
        if not readers and self.dataset.categories.things:
            raise CacheError(
                f"{self.predictions_dir}: none of the ends {list(ends)} has an {INSTANCES_FILE} for split "
                f"{self.split}, and without instances there is no panoptic map; add an end that predicts instances"
            )
        return readers

    def open_semantics(self, ends: Sequence[str]) -> dict[str, SemanticReader]:
        """end → reader, of those ends that have semantics. Raises CacheError if none has."""
        readers = {
            end: SemanticReader(path, self._identity(end), images=self._images())
            for end, path in self._existing(ends, SEMANTIC_FILE)
        }
        if not readers:
            raise CacheError(
                f"{self.predictions_dir}: none of the ends {list(ends)} has a {SEMANTIC_FILE} for split {self.split}; "
                "add an end that predicts semantics"
            )
        return readers

    def _existing(self, ends: Sequence[str], file_name: str) -> list[tuple[str, Path]]:
        existing = []
        for end in ends:
            paths = [
                cache_path(self.predictions_dir, end=end, split=self.split, file_name=name)
                for name in (INSTANCES_FILE, SEMANTIC_FILE)
            ]
            if not any(path.exists() for path in paths):
                raise CacheError(f"{paths[0].parent}: neither {INSTANCES_FILE} nor {SEMANTIC_FILE}; run `dvc repro`")
            existing += [(end, path) for path in paths if path.name == file_name and path.exists()]
        return existing

    def _identity(self, end: str) -> CacheIdentity:
        return CacheIdentity(end, self.split, self.dataset_fingerprint, self.dataset.categories)

    def _images(self) -> dict[int, tuple[int, int]]:
        return {image.image_id: (image.height, image.width) for image in self.dataset.images}
