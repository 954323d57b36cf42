"""The caches of several ends side by side. An end has instances, semantics or both; which, its files tell: those of
every split, and what is known of its training. One that is missing is an error, not an end of less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.splits import SplitName, dataset_fingerprint, open_split
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, REMEDY, SEMANTIC_FILE, CacheIdentity
from antvisionps.predictions.semantic import SemanticReader

PredictionKind = Literal["instances", "semantics"]

FILE_OF_KIND: Mapping[PredictionKind, str] = {"instances": INSTANCES_FILE, "semantics": SEMANTIC_FILE}

PREDICTED_SPLITS: tuple[SplitName, ...] = ("heldout", "val")


@dataclass(frozen=True)
class SplitCaches:
    """Opens the caches of one split, each checked against the split's images, categories and fingerprint.

    `promised` is what an end was trained to predict, of those of which that is known.
    """

    predictions_dir: Path
    split: SplitName
    dataset_fingerprint: str
    dataset: PanopticDataset
    promised: Mapping[str, Sequence[PredictionKind]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        predictions_dir: Path,
        prepared: Path,
        split: SplitName,
        *,
        promised: Mapping[str, Sequence[PredictionKind]],
    ) -> SplitCaches:
        """The caches of a split that stage prepare wrote."""
        return cls(predictions_dir, split, dataset_fingerprint(prepared), open_split(prepared, split), promised)

    def open_instances(self, ends: Sequence[str], *, mask_probs: bool = False) -> dict[str, InstancesReader]:
        """end → reader of those ends that have instances.

        Raises CacheError if none has, unless there are no things.
        """
        readers = {
            end: InstancesReader(path, self._identity(end), images=self._images(), mask_probs=mask_probs)
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
            of_split = self._files(end, self.split)
            if not of_split:
                folder = self.predictions_dir / end / self.split
                raise CacheError(f"{folder}: neither {INSTANCES_FILE} nor {SEMANTIC_FILE}; run `dvc repro`")
            self._refuse_missing(end, of_split)
            existing += [(end, path) for name, path in of_split.items() if name == file_name]
        return existing

    def _files(self, end: str, split: SplitName) -> dict[str, Path]:
        """File name → path of the files that the end has for a split."""
        folder = self.predictions_dir / end / split
        return {name: folder / name for name in FILE_OF_KIND.values() if (folder / name).exists()}

    def _refuse_missing(self, end: str, of_split: Mapping[str, Path]) -> None:
        """Raises CacheError where the end lacks a file that its training promises, or that it has for another split."""
        why = {FILE_OF_KIND[kind]: f"{end} is trained to predict {kind}" for kind in self.promised.get(end, ())}
        for split in PREDICTED_SPLITS:
            why |= dict.fromkeys(self._files(end, split), f"{end} has one for {split}")
        for name, reason in why.items():
            if name not in of_split:
                path = self.predictions_dir / end / self.split / name
                raise CacheError(f"{path}: no such file, but {reason}; {REMEDY}")

    def _identity(self, end: str) -> CacheIdentity:
        return CacheIdentity(end, self.split, self.dataset_fingerprint, self.dataset.categories)

    def _images(self) -> dict[int, tuple[int, int]]:
        return {image.image_id: (image.height, image.width) for image in self.dataset.images}


def refuse_other_kinds(end: str, folders: Sequence[Path]) -> None:
    """Raises PredictionsError where the caches of one split have instances or semantics and those of another have
    not."""
    for kind, file_name in FILE_OF_KIND.items():
        if len({(folder / file_name).exists() for folder in folders}) > 1:
            raise PredictionsError(
                f"{end}: {kind} of the held-out images or of the others, not of both; give both the same kinds of "
                "predictions"
            )
