"""Results without a tool of their own: a dict of masks, scores and what they are of, as SAM and one's own code give.

masks (N, H, W) bool, or COCO RLEs · scores (N,) · one of category_ids (N,), labels (N,) by the table, prompts (N,) or
one text for all · optional boxes_xyxy or boxes_xywh (N, 4), mask_probs (N, 28, 28) over the boxes · optional semantic:
labels (H, W), or class scores (C, h, w) with semantic_labels (C,). Keys of SAM's own are known: segmentation,
predicted_iou, iou_scores. Masks and class scores may be on a grid over a padded input; boxes are the photo's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.label_table import LabelTable, own_labels
from antvisionps.interchange.letterbox import Padding, resize_to_photo
from antvisionps.interchange.tool_arrays import (
    Predicted,
    instances_from_masks,
    refuse_other_lengths,
    rows_of,
    semantics_from_array,
    stack_masks,
    to_numpy,
)
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances
from antvisionps.predictions.schema import MASK_PROBS_SIZE
from antvisionps.predictions.semantic import ImageSemantics

KEYS = frozenset(
    {"masks", "scores", "category_ids", "labels", "prompts", "boxes_xyxy", "boxes_xywh", "mask_probs", "semantic"}
    | {"semantic_labels"}
)
OF_SAM = {"segmentation": "masks", "predicted_iou": "scores", "iou_scores": "scores", "boxes": "boxes_xyxy"}
"""SAM's name → ours."""


def read_mask_dict(
    result: Mapping[str, Any], image: PanopticImage, labels: LabelTable, where: str, *, padding: Padding | None = None
) -> Predicted:
    """Masks of stuff become semantics: where several overlap, a category has the best score of its masks.

    Raises PredictionsError on an unknown or missing key and on what does not fit the image.
    """
    found = _with_known_keys(result, where)
    semantics = _read_semantic(found, image, labels, where, padding)
    if "masks" not in found:
        if semantics is None:
            raise PredictionsError(f"{where}: expected masks or semantic in the dict, got {sorted(map(str, result))}")
        return Predicted(None, semantics)
    if padding is not None:
        found["masks"] = _without_padding(found["masks"], image, padding, where)
    category_ids = _categories(found, labels, where)
    is_thing = np.array([one in labels.categories.thing_ids for one in category_ids], dtype=bool)
    if semantics is not None and not is_thing.all():
        raise PredictionsError(f"{where}: masks of stuff and semantic beside them; give stuff in one of the two")
    instances = _select(found, category_ids, is_thing, image, where)
    if not is_thing.all():
        semantics = _stuff_planes(_select(found, category_ids, ~is_thing, image, where), image)
    return Predicted(instances, semantics)


def join_results(results: Sequence[Predicted], image: PanopticImage, where: str) -> Predicted:
    """All instances of several results of one image; of semantics on one grid, the larger probability of each category.

    Raises PredictionsError where semantics are on grids that differ.
    """
    parts = [one.instances for one in results if one.instances is not None]
    semantics = [one.semantics for one in results if one.semantics is not None]
    return Predicted(
        None if semantics and not parts else _join_instances(parts, image),
        None if not semantics else reduce(partial(_join_semantics, where=where), semantics),
    )


def _join_instances(parts: Sequence[ImageInstances], image: PanopticImage) -> ImageInstances:
    if len(parts) == 1:
        return parts[0]
    probs = [part.mask_probs for part in parts if part.mask_probs is not None]
    return ImageInstances(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        category_ids=np.concatenate([np.zeros(0, np.int32), *(part.category_ids for part in parts)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)]),
        boxes_xywh=np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes_xywh for part in parts)]),
        rles=[rle for part in parts for rle in part.rles],
        mask_probs=np.concatenate(probs) if probs and len(probs) == len(parts) else None,
    )


def _join_semantics(one: ImageSemantics, other: ImageSemantics, *, where: str) -> ImageSemantics:
    grids = [(of.input_height, of.input_width, of.stride, of.planes.shape[1:]) for of in (one, other)]
    if grids[0] != grids[1]:
        raise PredictionsError(f"{where}: results with semantics on grids that differ; give one of them")
    listed = np.union1d(one.category_ids, other.category_ids)
    planes = np.zeros((len(listed), *one.planes.shape[1:]), dtype=np.uint8)
    for part in (one, other):
        places = np.searchsorted(listed, part.category_ids)
        planes[places] = np.maximum(planes[places], part.planes)
    return replace(one, category_ids=listed, planes=planes)


def _with_known_keys(result: Mapping[str, Any], where: str) -> dict[str, Any]:
    is_single = "segmentation" in result  # one mask, as SAM's generator lists them
    found = {OF_SAM.get(key, key): value for key, value in result.items()}
    if "scores" not in result and found.get("scores") is not None:  # SAM regresses IoUs, some to a little above 1
        found["scores"] = np.clip(to_numpy(found["scores"]), 0, 1)
    if is_single:
        found = {key: value for key, value in found.items() if key in KEYS or key == "prompt"}
        found["masks"] = found["masks"][None] if hasattr(found["masks"], "shape") else [found["masks"]]
        found["scores"] = [found.get("scores")]
    if unknown := found.keys() - KEYS - {"prompt"}:
        raise PredictionsError(f"{where}: unknown key {min(unknown)!r} in the dict; expected of {sorted(KEYS)}")
    if "prompt" in found:
        found["prompts"] = found.pop("prompt")
    return {key: value for key, value in found.items() if value is not None}


def _without_padding(masks: Any, image: PanopticImage, padding: Padding, where: str) -> np.ndarray:
    """(N, H, W) probabilities of masks (N, h, w) over the padded input."""
    stacked = stack_masks(masks, where)
    if stacked.ndim != 3:
        raise PredictionsError(f"{where}: expected masks (N, height, width) on the padded input, got {stacked.shape}")
    resized = [resize_to_photo(mask, image, padding) for mask in stacked]
    return np.array(resized, dtype=np.float32).reshape(-1, image.height, image.width)


def _categories(found: Mapping[str, Any], labels: LabelTable, where: str) -> list[int]:
    named = found.keys() & {"category_ids", "labels", "prompts"}
    if len(named) != 1 or "scores" not in found:
        raise PredictionsError(
            f"{where}: expected scores and one of category_ids, labels and prompts beside masks, got {sorted(found)}"
        )
    (key,) = named
    values, count = found[key], len(found["masks"])
    listed = [values] * count if isinstance(values, str) else to_numpy(values).reshape(-1).tolist()
    if key == "category_ids":
        labels = own_labels(labels.categories)
    return [
        labels.category_of_text(one, where=where)
        if isinstance(one, str)
        else labels.category_id(one, is_thing=None, where=where)
        for one in listed
    ]


def _select(
    found: Mapping[str, Any], category_ids: Sequence[int], is_chosen: np.ndarray, image: PanopticImage, where: str
) -> ImageInstances:
    """Those of the masks that are chosen."""
    chosen = np.flatnonzero(is_chosen)
    masks, scores = found["masks"], to_numpy(found["scores"]).reshape(-1)
    refuse_other_lengths(masks, scores, category_ids, where)
    shapes = {"boxes_xyxy": (4,), "boxes_xywh": (4,), "mask_probs": (MASK_PROBS_SIZE, MASK_PROBS_SIZE)}
    more = {
        key: rows_of(found[key], len(masks), shape, f"{where}: {key}")[chosen]
        for key, shape in shapes.items()
        if key in found
    }
    return instances_from_masks(
        [masks[index] for index in chosen] if isinstance(masks, list | tuple) else to_numpy(masks)[chosen],
        scores[chosen],
        [category_ids[index] for index in chosen],
        image,
        where,
        **more,
    )


def _stuff_planes(stuff: ImageInstances, image: PanopticImage) -> ImageSemantics | None:
    if not len(stuff):
        return None
    listed = np.unique(stuff.category_ids)
    hw = (image.height, image.width)
    planes = np.zeros((len(listed), *hw), dtype=np.float32)
    for index, category_id in enumerate(stuff.category_ids.tolist()):
        plane = planes[np.searchsorted(listed, category_id)]
        np.maximum(plane, stuff.runs.mask(index) * stuff.scores[index], out=plane)
    return ImageSemantics.from_probs(image.image_id, hw=hw, input_hw=hw, stride=1.0, category_ids=listed, probs=planes)


def _read_semantic(
    found: Mapping[str, Any], image: PanopticImage, labels: LabelTable, where: str, padding: Padding | None
) -> ImageSemantics | None:
    if "semantic" not in found:
        return None
    named = found.get("semantic_labels")
    return semantics_from_array(
        to_numpy(found["semantic"]),
        image,
        labels,
        f"{where}: semantic",
        plane_labels=None if named is None else to_numpy(named).tolist(),
        padding=padding,
    )
