"""Predictions of any tool into a folder that the pipeline and `antvisionps fuse` read, image by image.

    with Writer("eomt", gt="val.json", to="data/imports/eomt/val", labels=model.config.id2label) as writer:
        for image_id, photo in photos:
            writer.add(image_id, model(photo))

The folder holds `instances.parquet`, `semantic.parquet` or both, in the cache's own schema.
"""

from __future__ import annotations

import io
import pickle
import tempfile
from contextlib import AbstractContextManager, ExitStack
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Self

from antvisionps.core.atomic import atomic_folder, refuse_other_files
from antvisionps.core.checksums import file_sha256
from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.image_names import ImageFinder
from antvisionps.interchange.letterbox import Padding
from antvisionps.interchange.tool_arrays import Predicted, no_semantics
from antvisionps.interchange.tool_results import ResultReader, make_labels
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.segments import PanopticImage, given_ids
from antvisionps.predictions.instances import ImageInstances, InstancesWriter
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import SemanticWriter

UNKNOWN_WEIGHTS = "unknown"


class Writer(AbstractContextManager["Writer"]):
    """Writes predictions of the images that the COCO panoptic JSON `gt` lists to the folder `to`, whole or not at all;
    a folder that holds other files is refused.

    `end` names the model. `labels` tells what the model's labels mean, by names or ids of the categories: a list that
    counts from 0 (mmdet's `classes`), {label: category} (Hugging Face's `id2label`), {"things": …, "stuff": …}
    (detectron2), or {prompt: category}. Without it labels are the data set's category ids, or the names that a result
    carries. Images may come in any order; the same results give the same bytes.
    """

    def __init__(self, end: str, *, gt: str | PathLike[str], to: str | PathLike[str], labels: Any = None) -> None:
        self._gt, self._to = Path(gt), Path(to)
        self._dataset = read_panoptic(
            self._gt, images_dir=self._gt.parent, panoptic_dir=self._gt.parent, is_foreign=True, needs_truth=False
        )
        self._finder = ImageFinder(self._dataset)
        self._ids = {image.source_id for image in self._dataset.images}
        categories = self._dataset.categories
        self._reader = ResultReader(categories, make_labels(labels, categories))
        self._header = CacheHeader(
            end, self._gt.stem, file_sha256(self._gt), categories, UNKNOWN_WEIGHTS, given_ids(self._dataset.images)
        )

    def __enter__(self) -> Self:
        refuse_other_files(self._to, names=(INSTANCES_FILE, SEMANTIC_FILE))
        with ExitStack() as opened:
            self._folder = opened.enter_context(atomic_folder(self._to))
            self._spool = opened.enter_context(_Spool(self._folder))
            opened.push(self._finish)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def add(
        self,
        image: int | str | PathLike[str],
        result: Any,
        *,
        input_hw: tuple[int, int] | None = None,
        padded_hw: tuple[int, int] | None = None,
    ) -> None:
        """Takes what a tool returned for the image of that id, or of that photo: an object of Hugging Face, detectron2,
        mmdet, Ultralytics or supervision, raw queries, a dict of arrays, or a list of them (tool_results.py).

        For raw queries, masks and class scores on a padded input: the photo's share `input_hw`, at the top left of the
        input `padded_hw`, in its pixels. Raises PredictionsError on an unknown image, one that was added before, and a
        result that does not fit it.
        """
        found, padding = self._find(image), Padding.of(input_hw, padded_hw)
        self._spool.add(found, self._reader.read(result, found, padding=padding))

    def _find(self, image: int | str | PathLike[str]) -> PanopticImage:
        if isinstance(image, PathLike) or (isinstance(image, str) and image not in self._ids):
            return self._finder.find_photo(fspath(image), where=str(self._gt))
        if hasattr(image, "item"):  # a number of numpy or torch
            image = image.item()
        return self._finder.find(image, where=str(self._gt))

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        missing = [image.source_id for image in self._dataset.images if image.image_id not in self._spool]
        if missing:
            raise PredictionsError(
                f"{self._to}: nothing was added for {len(missing)} of {len(self._dataset.images)} images of "
                f"{self._gt}, {missing[0]} first; add every image, with [] where nothing was found"
            )
        kinds = self._spool.kinds
        with ExitStack() as files:
            instances = semantics = None
            if "instances" in kinds:
                instances = files.enter_context(InstancesWriter(self._folder / INSTANCES_FILE, self._header))
            if "semantics" in kinds:
                semantics = files.enter_context(SemanticWriter(self._folder / SEMANTIC_FILE, self._header))
            for image in self._dataset.images:
                found = self._spool.read(image)
                if instances is not None:
                    instances.write(found.instances or ImageInstances.of(image, []))
                if semantics is not None:
                    semantics.write(found.semantics or no_semantics(image, self._dataset.categories))


class _Spool(AbstractContextManager["_Spool"]):
    """Predictions in the order in which they come, on disk; read by image. `kinds`: those that any image has."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._offset_of: dict[int, int] = {}
        self.kinds: set[str] = set()

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._offset_of

    def add(self, image: PanopticImage, predicted: Predicted) -> None:
        """Raises PredictionsError on an image that is there."""
        if image.image_id in self:
            raise PredictionsError(f"image {image.source_id} was added before; give all its results at once, as a list")
        self.kinds |= {kind for kind, found in predicted._asdict().items() if found is not None}
        self._offset_of[image.image_id] = self._file.seek(0, io.SEEK_END)
        pickle.dump(predicted, self._file)

    def read(self, image: PanopticImage) -> Predicted:
        self._file.seek(self._offset_of[image.image_id])
        predicted: Predicted = pickle.load(self._file)
        return predicted
