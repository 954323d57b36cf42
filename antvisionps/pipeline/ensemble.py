"""Panoptic maps from the predictions of several models, without a project: of one image in memory, or of folders.

fused = antvisionps.fuse({"maskrcnn": outputs_a, "segformer": outputs_b}, categories="val.json", hw=photo.shape[:2])
fused.segment_ids, fused.segments, fused.rejected
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.documents import Document, Fraction, Weight, explain_first
from antvisionps.core.errors import DataError, ParamsError, PredictionsError
from antvisionps.core.json_files import read_json
from antvisionps.evaluation.panoptic_quality import MATCH_IOU
from antvisionps.fusion.heuristic import PRESETS, FusedImage
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.system import FusionSettings, fuse_predictions
from antvisionps.interchange.checksums import file_sha256
from antvisionps.interchange.import_end import import_end
from antvisionps.interchange.tool_arrays import Predicted, no_semantics
from antvisionps.interchange.tool_results import ResultReader, make_labels
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.panoptic.splits import SplitName
from antvisionps.parallel.images import Workers
from antvisionps.params.section import NonNegative, full_weights
from antvisionps.pipeline.fuse import fuse as fuse_caches
from antvisionps.pipeline.settings import by_category_id
from antvisionps.predictions.schema import SEMANTIC_FILE, CacheHeader, CacheIdentity, cache_path
from antvisionps.predictions.semantic import SemanticWriter
from antvisionps.predictions.split_caches import SplitCaches

NO_IMAGE_ID = 0
"""An image in memory has no id; only messages name it."""

SPLIT: SplitName = "val"
"""What the caches of folders are called while they are fused."""

VOID = "void"
"""The weights of semantics that are void everywhere, where no model has any."""


class EnsembleSettings(Document):
    """How models are fused; what is not given is the preset's.

    `instances`: union joins those that several models found, all pastes everybody's, and a table {category: model}, by
    name or id, takes each category from one. `min_joined_iou`: masks of a category that overlap by more are joined; by
    default as PQ matches them. Weights are by model, 1 where not named. The rest is docs/fusion.md's,
    without `auto`, which is fitted on held-out images.
    """

    preset: Literal["panopticapi", "detectron2", "mmdet", "upsnet"] = "panopticapi"
    method: Literal["heuristic", "panoptic_head"] = "heuristic"
    instances: Literal["union", "all"] | dict[str | int, str] = "union"
    min_joined_iou: Fraction = MATCH_IOU
    instance_weights: dict[str, Weight] = Field(default_factory=dict)
    semantic_weights: dict[str, Weight] = Field(default_factory=dict)
    semantic_average: Literal["probabilities", "log_probabilities"] = "probabilities"
    min_score: Fraction | None = None
    max_overlap_frac: Fraction | None = None
    min_stuff_area_px: NonNegative | None = None
    max_nms_iou: Fraction | None = None
    min_stuff_confidence: Fraction | None = None
    min_scores: dict[str | int, Fraction] = Field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> EnsembleSettings:
        """Raises ParamsError on an unknown name and on a value out of range."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ParamsError(f"fuse: {explain_first(error)}") from error

    def fusion(self, models: list[str], categories: CategorySet) -> FusionSettings:
        """Of models of these names. Raises ParamsError on a weight or a category of no model."""
        for name in sorted({*self.instance_weights, *self.semantic_weights} - set(models)):
            raise ParamsError(f"fuse: a weight of {name}, which is no model; expected of {models}")
        for weights in (self.instance_weights, self.semantic_weights):
            if not any(full_weights(weights, models).values()):
                raise ParamsError(f"fuse: the weights {weights} are all zero; give at least one a positive weight")
        names = {"min_score", "max_overlap_frac", "min_stuff_area_px", "max_nms_iou", "min_stuff_confidence"}
        thresholds = self.model_dump(include=names, exclude_none=True)
        min_scores = by_category_id(self.min_scores, categories, place="min_scores")
        return FusionSettings(
            method=self.method,
            rules=replace(PRESETS[self.preset], **thresholds, min_scores=min_scores),
            weight_of_end=full_weights(self.semantic_weights, models),
            average_of=self.semantic_average,
            end_of_category=self._model_of_category(models, categories),
            union=UnionRules(full_weights(self.instance_weights, models), self.min_joined_iou)
            if self.instances == "union"
            else None,
        )

    def _model_of_category(self, models: list[str], categories: CategorySet) -> dict[int, str] | None:
        if not isinstance(self.instances, dict):
            return None
        model_of = by_category_id(self.instances, categories, place="instances")
        for thing in categories.things:
            if model_of.get(thing.category_id) not in models:
                raise ParamsError(
                    f"fuse: instances: expected one of {models} for {thing.name} ({thing.category_id}), got "
                    f"{model_of.get(thing.category_id)}"
                )
        return model_of


def fuse(
    predictions: Mapping[str, Any],
    *,
    categories: CategorySet | str | PathLike[str] | list[dict[str, Any]],
    hw: tuple[int, int],
    labels: Mapping[str, Any] | None = None,
    **settings: Any,
) -> FusedImage:
    """The panoptic map of one image of `hw` (height, width) pixels, from model → what it returned for it.

    A result is whatever `Writer.add` takes, for example {"masks": (N, H, W) bool, "scores": (N,), "category_ids": (N,),
    "semantic": (C, h, w) or (H, W)}. `categories` are the rows of a COCO panoptic JSON, or that file. `labels`: model →
    what its labels mean, as of Writer. `settings` are those of EnsembleSettings. Returns segment_ids (H, W) int32,
    0 = void; segments with category, score and model; rejected, with the reason of each. Raises PredictionsError on a
    result that does not fit, ParamsError on a setting.
    """
    known = read_categories(categories)
    fusion = EnsembleSettings.of(settings).fusion(list(predictions), known)
    image = PanopticImage(NO_IMAGE_ID, "", "", int(hw[0]), int(hw[1]), ())
    labels = labels or {}
    if unknown := sorted(labels.keys() - predictions.keys()):
        raise PredictionsError(f"labels of {unknown[0]}, which is no model; expected of {list(predictions)}")
    found = {
        name: _read(name, result, image, ResultReader(known, make_labels(labels.get(name), known)))
        for name, result in predictions.items()
    }
    instances = {name: one.instances.sorted_by_score() for name, one in found.items() if one.instances is not None}
    semantics = {name: one.semantics for name, one in found.items() if one.semantics is not None}
    if known.things and not instances:
        raise PredictionsError("no model has instances, and without them there is no panoptic map; add one that has")
    if not semantics.keys() & fusion.semantic_ends():
        semantics[fusion.semantic_ends()[0]] = no_semantics(image, known)
    return fuse_predictions(instances, semantics, categories=known, settings=fusion)


def read_categories(categories: CategorySet | str | PathLike[str] | list[dict[str, Any]]) -> CategorySet:
    """Of a COCO panoptic JSON, or its rows. Raises DataError on what is none."""
    if isinstance(categories, CategorySet):
        return categories
    where, rows = "categories", cast(Any, categories)
    if isinstance(rows, str | PathLike):
        where = str(rows)
        document = read_json(Path(rows), what="COCO panoptic JSON", remedy="write it again", error=DataError)
        rows = document.get("categories") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f"{where}: expected a list of categories with id, name and isthing, got {str(rows)[:80]}")
    return CategorySet.from_json(rows, where=where)


def _read(name: str, result: Any, image: PanopticImage, reader: ResultReader) -> Predicted:
    try:
        return reader.read(result, image)
    except PredictionsError as error:
        raise PredictionsError(f"{name}: {error}") from error


def fuse_folders(
    folders: Mapping[str, Path],
    *,
    gt: Path,
    gt_maps: Path | None = None,
    out: Path,
    workers: Workers = 1,
    **settings: Any,
) -> int:
    """Fuses model → folder, each as of `Writer` or of docs/your_own_data.md, into the folder `out`, as stage fuse does;
    returns the number of images.

    `gt` is a COCO panoptic JSON of the images; with its maps in `gt_maps` labels are compared with the truth. Raises
    what `fuse` and `import_end` do.
    """
    chosen = EnsembleSettings.of(settings)
    dataset = read_panoptic(gt, images_dir=gt.parent, panoptic_dir=gt_maps or gt.parent, is_foreign=True)
    fusion = chosen.fusion(list(folders), dataset.categories)
    with atomic_folder(out) as folder:
        imported = folder / ".imported"
        caches = _import_all(folders, fusion, dataset, imported, has_truth=gt_maps is not None)
        fuse_caches({"fused": folder}, settings={"fused": fusion}, caches=caches, workers=workers)
        shutil.rmtree(imported)
    return len(dataset.images)


def _import_all(
    folders: Mapping[str, Path], fusion: FusionSettings, dataset: PanopticDataset, imported: Path, *, has_truth: bool
) -> SplitCaches:
    fingerprint = file_sha256(dataset.annotations)
    for name, source in folders.items():
        identity = CacheIdentity(name, SPLIT, fingerprint, dataset.categories)
        import_end(source, imported / name / SPLIT, dataset=dataset, identity=identity, has_truth=has_truth)
    paths = [cache_path(imported, end=name, split=SPLIT, file_name=SEMANTIC_FILE) for name in fusion.semantic_ends()]
    if not any(path.exists() for path in paths):
        header = CacheHeader(fusion.semantic_ends()[0], SPLIT, fingerprint, dataset.categories, VOID)
        with SemanticWriter(paths[0], header) as writer:
            for image in dataset.images:
                writer.write(no_semantics(image, dataset.categories))
    return SplitCaches(imported, SPLIT, fingerprint, dataset)
