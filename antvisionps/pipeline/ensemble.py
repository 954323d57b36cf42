"""The panoptic map of one image in memory from the predictions of several models, without a project.

fused = antvisionps.fuse({"maskrcnn": outputs_a, "segformer": outputs_b}, categories="val.json", hw=photo.shape[:2])
fused.segment_ids, fused.segments, fused.rejected, fused.to_pandas(), fused.plot()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field, ValidationError

from antvisionps.core.documents import Document, Fraction, Weight, explain_first
from antvisionps.core.errors import DataError, ParamsError, PredictionsError
from antvisionps.core.json_files import read_json
from antvisionps.evaluation.panoptic_quality import MATCH_IOU
from antvisionps.fusion.heuristic import PRESETS, FusedImage, coco_segments
from antvisionps.fusion.mask_union import UnionRules
from antvisionps.fusion.system import FusionSettings, fuse_predictions
from antvisionps.interchange.letterbox import Padding
from antvisionps.interchange.tool_arrays import no_semantics
from antvisionps.interchange.tool_results import ResultReader, make_labels
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.params.section import NonNegative, full_weights
from antvisionps.pipeline.settings import by_category_id
from antvisionps.report.shown import Shown, to_frame

if TYPE_CHECKING:
    import pandas as pd

GREY = 128
"""What a map without a photo is drawn on."""

NO_IMAGE_ID = 0
"""An image in memory has no id; only messages name it."""

UNION_MIN_SCORE_FRAC = 0.6
"""Of the preset's min_score, what a union asks for: it lowers the score of what not all of its models found."""

FITTED = ("max_nms_iou", "min_stuff_confidence", "min_scores")
FITTED_BY_AUTO = (*FITTED, "min_score", "min_stuff_area_px", "instances", "instance_weights", "semantic_weights")
"""What a user cannot set where held-out images decide; the other settings are where the search begins."""


class EnsembleSettings(Document):
    """How models are fused; what is not given is the preset's, and in a union UNION_MIN_SCORE_FRAC of its min_score.

    `instances`: union joins those that several models found, all pastes everybody's, and a table {category: model}, by
    name or id, takes each category from one. `min_joined_iou`: masks of a category that overlap by more are joined; by
    default as PQ matches them. Weights are by model, 1 where not named. `min_heldout_instances`: a class with fewer
    held-out ones keeps the score threshold of all. The rest is docs/fusion.md's.
    """

    preset: Literal["panopticapi", "detectron2", "mmdet", "upsnet"] = "panopticapi"
    method: Literal["heuristic", "panoptic_head", "auto"] = "heuristic"
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
    min_heldout_instances: NonNegative = 10
    doubt: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> EnsembleSettings:
        """Raises ParamsError on an unknown name and on a value out of range."""
        try:
            return cls(**settings)
        except ValidationError as error:
            raise ParamsError(f"fuse: {explain_first(error)}") from error

    def refuse_unfitted(self, *, is_calibrated: bool) -> None:
        """Raises ParamsError on method auto without held-out images, and with them on a setting that has no use."""
        if not is_calibrated and self.method == "auto":
            raise ParamsError(
                "fuse: method auto is fitted on held-out images; fuse folders with calibrate_on (--calibrate-on), or "
                "choose heuristic"
            )
        for name in FITTED_BY_AUTO if self.method == "auto" else FITTED if is_calibrated else ():
            if name in self.model_fields_set:
                raise ParamsError(f"fuse: {name} has no use where held-out images decide; leave it out")

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
            with_doubt=self.doubt,
        )

    def with_union_min_score(self, fusion: FusionSettings, models: Iterable[str]) -> FusionSettings:
        """These settings of `fusion` with the threshold of a union, where several of `models`, which have instances,
        count in it and no threshold was given."""
        if fusion.union is None or self.min_score is not None:
            return fusion
        if sum(fusion.union.weight_of_end[model] > 0 for model in models) < 2:
            return fusion
        rules = replace(fusion.rules, min_score=UNION_MIN_SCORE_FRAC * fusion.rules.min_score)
        return replace(fusion, rules=rules)

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


@dataclass(frozen=True, eq=False, repr=False)
class FusedPhoto(FusedImage, Shown):
    """A map that `fuse` made. `photo`: what its picture is drawn on, (H, W, 3) uint8 RGB; None is grey."""

    categories: CategorySet
    photo: np.ndarray | None

    def picture(self) -> np.ndarray:
        from antvisionps.report.overlays import draw_panoptic

        photo = np.full((*self.hw, 3), GREY, dtype=np.uint8) if self.photo is None else self.photo
        return draw_panoptic(photo, self.segment_ids, coco_segments(self.segments), self.categories)

    def to_pandas(self, table: Literal["segments", "candidates"] = "segments") -> pd.DataFrame:
        """Segments or rejected candidates, a row each. Raises AntVisionPSError without pandas."""
        rows = self.segments if table == "segments" else tuple(self.rejected)
        return to_frame([{"category": self.categories.by_id(row.category_id).name} | row._asdict() for row in rows])


def fuse(
    predictions: Mapping[str, Any],
    *,
    categories: CategorySet | str | PathLike[str] | list[dict[str, Any]],
    hw: tuple[int, int],
    photo: np.ndarray | None = None,
    labels: Mapping[str, Any] | None = None,
    input_hw: Mapping[str, tuple[int, int]] | None = None,
    padded_hw: Mapping[str, tuple[int, int]] | None = None,
    **settings: Any,
) -> FusedPhoto:
    """The panoptic map of one image of `hw` (height, width) pixels, from model → what it returned for it.

    A result is whatever `Writer.add` takes, for example {"masks": (N, H, W) bool, "scores": (N,), "category_ids": (N,),
    "semantic": (C, h, w) or (H, W)}. `categories` are the rows of a COCO panoptic JSON, or that file. `labels`: model →
    what its labels mean, `input_hw` and `padded_hw`: model → of its padded input, all as of Writer. `settings` are
    those of EnsembleSettings, but for method auto; `photo` (H, W, 3) uint8 RGB is what pictures are drawn on. Returns
    segment_ids (H, W) int32, 0 = void; segments with category, score and model; rejected, with the reason of each.
    Raises PredictionsError on a result or a photo that does not fit and on what is no table by model, ParamsError on a
    setting.
    """
    labels, input_hw, padded_hw = labels or {}, input_hw or {}, padded_hw or {}
    tables = {"predictions": predictions, "labels": labels, "input_hw": input_hw, "padded_hw": padded_hw}
    for what, table in tables.items():
        if not isinstance(table, Mapping):
            raise PredictionsError(f"{what}: expected a table {{model: …}}, got a {type(table).__name__}")
        if unknown := sorted(table.keys() - predictions.keys()):
            raise PredictionsError(f"{what} of {unknown[0]}, which is no model; expected of {list(predictions)}")
    known = read_categories(categories)
    chosen = EnsembleSettings.of(settings)
    chosen.refuse_unfitted(is_calibrated=False)
    fusion = chosen.fusion(list(predictions), known)
    image = PanopticImage(NO_IMAGE_ID, "", "", int(hw[0]), int(hw[1]), ())
    if photo is not None and (photo.shape, photo.dtype) != ((*hw, 3), np.uint8):
        raise PredictionsError(f"photo: expected {(*hw, 3)} uint8 RGB, got {photo.shape} {photo.dtype}")
    found = {}
    for name, result in predictions.items():
        reader = ResultReader(known, make_labels(labels.get(name), known))
        try:
            padding = Padding.of(input_hw.get(name), padded_hw.get(name))
            found[name] = reader.read(result, image, padding=padding)
        except PredictionsError as error:
            raise PredictionsError(f"{name}: {error}") from error
    instances = {name: one.instances.sorted_by_score() for name, one in found.items() if one.instances is not None}
    semantics = {name: one.semantics for name, one in found.items() if one.semantics is not None}
    if known.things and not instances:
        raise PredictionsError("no model has instances, and without them there is no panoptic map; add one that has")
    if not semantics.keys() & fusion.semantic_ends():
        semantics[fusion.semantic_ends()[0]] = no_semantics(image, known)
    fusion = chosen.with_union_min_score(fusion, instances)
    fused = fuse_predictions(instances, semantics, categories=known, settings=fusion)
    return FusedPhoto(fused.hw, fused.runs, fused.segments, fused.rejected, known, photo, doubt=fused.doubt)


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
