"""What other tools return for an image, known by its attributes: none of the tools is imported.

- Hugging Face: segmentation with segments_info; labels of a semantic model
- raw queries of Hugging Face, Mask2Former and DETR: class logits and mask logits
- detectron2: Instances; the dict of instances, sem_seg and panoptic_seg; panoptic_seg alone
- mmdet's DetDataSample and mmseg's SegDataSample
- Ultralytics' Results of the tasks segment and semantic
- supervision.Detections
- a dict or dataclass of masks, scores and category_ids, labels or prompts, as of SAM (mask_dicts.py)
- an array: labels (H, W) or class scores (C, h, w)
- an image of a cache, as inspection/ opens it
- a list of such results of one image

Where a result says the same twice, instances come from its instances, else from the things of its panoptic map;
semantics from its class scores, else its labels, else all segments of that map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.interchange.label_table import LabelTable, make_label_table, make_prompt_table, own_labels
from antvisionps.interchange.letterbox import Padding, undo_letterbox
from antvisionps.interchange.mask_dicts import join_results, read_mask_dict
from antvisionps.interchange.panoptic_results import convert_segments, parse_segments, plain_rows
from antvisionps.interchange.raw_queries import read_queries
from antvisionps.interchange.semantic_files import refuse_other_size, semantics_from_labels
from antvisionps.interchange.tool_arrays import Predicted, instances_from_masks, semantics_from_array, to_numpy
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances

INSTANCE_OFFSET = 1000
"""A pixel of mmdet's panoptic maps is label + INSTANCE_OFFSET * instance."""

LABEL_DIVISOR = 1000
"""A pixel of a panoptic map of detectron2 that comes without segments_info, as of Panoptic-DeepLab, is label *
LABEL_DIVISOR + instance, or -1 (detectron2/evaluation/panoptic_evaluation.py)."""

MMDET_IGNORED = 255

ULTRALYTICS_IGNORED = 255


def make_labels(labels: Any, categories: CategorySet) -> LabelTable | None:
    """What `labels` of Writer and fuse mean: a labels.json's content, or prompt → category. None stays None."""
    if labels is None:
        return None
    if isinstance(labels, Mapping) and set(labels) != {"things", "stuff"}:
        texts = {label for label in labels if isinstance(label, str) and not label.isdecimal()}
        if texts and texts == set(labels):
            return make_prompt_table(labels, categories)
    return make_label_table(list(labels) if isinstance(labels, tuple) else labels, categories, where="labels")


@dataclass(frozen=True)
class ResultReader:
    """Reads results of images of these categories. `labels` None: labels are category ids, or the names that a result
    carries."""

    categories: CategorySet
    labels: LabelTable | None

    def read(self, result: Any, image: PanopticImage, *, padding: Padding | None = None) -> Predicted:
        """Raises PredictionsError on a result of no known kind, and on one that does not fit the image."""
        where = f"image {image.source_id}"
        if isinstance(result, list | tuple) and not _is_panoptic_seg(result):
            return join_results([self.read(one, image, padding=padding) for one in result], image, where)
        for is_of, read in _READERS:
            if is_of(result):
                return read(self, result, _Place(image, where, padding))
        raise PredictionsError(
            f"{where}: a result of an unknown kind, {type(result).__name__}; give a dict of masks, scores and "
            "category_ids"
        )

    @property
    def table(self) -> LabelTable:
        return own_labels(self.categories) if self.labels is None else self.labels

    def thing_ids(self, labels: Any, where: str) -> list[int]:
        return [self.table.category_id(label, is_thing=True, where=where) for label in to_numpy(labels).tolist()]

    @property
    def goes_by_names(self) -> bool:
        """Whether names that a result carries tell its labels: without a table, and where it is of prompts."""
        return self.labels is None or bool(self.labels.prompts)

    def table_of_names(self, names: Any, where: str) -> LabelTable:
        """That of the user, else of the names that a result carries: each is a prompt's category or a category's
        name."""
        if self.labels is not None and not self.goes_by_names:
            return self.labels
        prompts: Mapping[str, int] = {} if self.labels is None else self.labels.prompts
        named = names if isinstance(names, Mapping) else dict(enumerate(names))
        told = {label: prompts.get(name, name) for label, name in named.items()}
        return make_label_table(told, self.categories, where=where)


class _Place(NamedTuple):
    """The image that a result is of, what errors call it, and the padding of the tool's input."""

    image: PanopticImage
    where: str
    padding: Padding | None


Read = Callable[[ResultReader, Any, _Place], Predicted]


def _has(*names: str) -> Callable[[Any], bool]:
    """Whether a result is a mapping with one of these keys, or an object with one of these attributes."""

    def is_of(result: Any) -> bool:
        return any(name in result if isinstance(result, Mapping) else hasattr(result, name) for name in names)

    return is_of


def _value(result: Any, *names: str) -> Any:
    """The first of them that the result has and that is not None."""
    for name in names:
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if value is not None:
            return value
    return None


def _is_panoptic_seg(result: Any) -> bool:
    """detectron2's (map, segments_info or None)."""
    is_pair = isinstance(result, tuple) and len(result) == 2
    return is_pair and hasattr(result[0], "shape") and isinstance(result[1], list | None)


def _read_queries(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    classes = to_numpy(_value(result, "class_queries_logits", "pred_logits"))
    masks = to_numpy(_value(result, "masks_queries_logits", "pred_masks"))
    if classes.ndim == 3 and masks.ndim == 4 and len(classes) == len(masks) == 1:
        classes, masks = classes[0], masks[0]
    return read_queries(classes, masks, at.image, reader.table, f"{at.where}: raw queries", padding=at.padding)


def _read_segments_info(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    segmentation, where = result["segmentation"], f"{at.where}: segments_info"
    if isinstance(segmentation, list):
        raise PredictionsError(f"{where}: got the runs of return_coco_annotation=True; use return_binary_maps=True")
    if getattr(segmentation, "ndim", 2) != 3:
        return _of_segments(reader, segmentation, result["segments_info"], at=at)
    rows = plain_rows(result["segments_info"])  # of return_binary_maps
    found = {"masks": segmentation, "scores": [row.get("score") for row in rows]}
    found |= {"labels": [row.get("label_id", row.get("category_id")) for row in rows]}
    return read_mask_dict(found, at.image, reader.table, where)


def _read_panoptic_seg(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    segment_ids, rows = result
    if rows is None:
        rows = _rows_of_ids(to_numpy(segment_ids), reader.table)
    return _of_segments(reader, segment_ids, rows, at=at)


def _rows_of_ids(segment_ids: np.ndarray, table: LabelTable) -> list[dict[str, Any]]:
    """segments_info of label * LABEL_DIVISOR + instance."""
    rows = []
    for segment_id in np.unique(segment_ids[segment_ids >= 0]).tolist():
        label = segment_id // LABEL_DIVISOR
        is_thing = None if table.is_one_table else label in table.things
        rows.append({"id": segment_id, "category_id": label, "isthing": is_thing})
    return rows


def _of_segments(reader: ResultReader, segment_ids: Any, rows: Any, *, at: _Place) -> Predicted:
    where = f"{at.where}: segments_info"
    segment_ids = to_numpy(segment_ids)
    refuse_other_size(where, at.image, segment_ids.shape)
    segments = parse_segments(plain_rows(rows or []), reader.table, where)
    return Predicted(*convert_segments(segment_ids.astype(np.int64), segments, at.image, reader.table, where))


def _read_detectron2(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    found, panoptic = result.get("instances"), result.get("panoptic_seg")
    whole = Predicted(None, None) if panoptic is None else _read_panoptic_seg(reader, panoptic, at)
    instances = whole.instances if found is None else _read_instances(reader, found, at).instances
    scores = result.get("sem_seg")
    if scores is None:
        return Predicted(instances, whole.semantics)
    where = f"{at.where}: sem_seg"
    return Predicted(instances, semantics_from_array(to_numpy(scores), at.image, reader.table, where))


def _read_instances(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    where = f"{at.where}: detectron2's Instances"
    found = result.get_fields()
    if "pred_masks" not in found:
        raise PredictionsError(f"{where}: no pred_masks; a panoptic map needs masks")
    boxes = found.get("pred_boxes")
    category_ids = reader.thing_ids(found["pred_classes"], where)
    return Predicted(
        instances_from_masks(
            getattr(found["pred_masks"], "tensor", found["pred_masks"]),
            found["scores"],
            category_ids,
            at.image,
            where,
            boxes_xyxy=None if boxes is None else boxes.tensor,
        ),
        None,
    )


def _read_mmdet(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    instances, semantics = None, None
    panoptic = _value(result, "pred_panoptic_seg")
    if panoptic is not None:
        instances, semantics = _of_mmdet_map(reader, to_numpy(_value(panoptic, "sem_seg"))[0], at)
    found = _value(result, "pred_instances")
    if found is not None:
        where_found = f"{at.where}: pred_instances"
        if missing := [name for name in ("masks", "scores", "labels") if name not in found]:
            raise PredictionsError(f"{where_found}: no {missing[0]}; a panoptic map needs masks, scores and labels")
        instances = instances_from_masks(
            _value(found, "masks"),
            _value(found, "scores"),
            reader.thing_ids(_value(found, "labels"), where_found),
            at.image,
            where_found,
            boxes_xyxy=_value(found, "bboxes"),
        )
    scores, labels = _value(result, "seg_logits"), _value(result, "pred_sem_seg")
    if scores is not None:
        planes = to_numpy(_value(scores, "data"))
        if len(planes) == 1:  # a binary segmentor's probability of label 1
            planes = np.concatenate([1 - planes, planes])
        semantics = semantics_from_array(planes, at.image, reader.table, f"{at.where}: seg_logits")
    elif labels is not None:
        label_map = to_numpy(_value(labels, "sem_seg", "data"))[0]
        semantics = semantics_from_labels(label_map, at.image, reader.table, f"{at.where}: pred_sem_seg")
    return Predicted(instances, semantics)


def _of_mmdet_map(reader: ResultReader, panoptic: np.ndarray, at: _Place) -> Predicted:
    """A label behind the last of the table, or MMDET_IGNORED, is void."""
    where = f"{at.where}: pred_panoptic_seg"
    refuse_other_size(where, at.image, panoptic.shape)
    known = reader.table.things.keys() | reader.table.stuff.keys()
    void_labels = {MMDET_IGNORED, max(known) + 1} - known
    segment_ids = np.where(np.isin(panoptic % INSTANCE_OFFSET, list(void_labels)), -1, panoptic).astype(np.int64)
    rows = [
        {"id": segment_id, "category_id": segment_id % INSTANCE_OFFSET}
        for segment_id in np.unique(segment_ids[segment_ids >= 0]).tolist()
    ]
    segments = parse_segments(rows, reader.table, where)
    return Predicted(*convert_segments(segment_ids, segments, at.image, reader.table, where))


def _read_ultralytics(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    where = f"{at.where}: Ultralytics' Results"
    refuse_other_size(where, at.image, tuple(result.orig_shape))
    table = reader.table_of_names(result.names, where)
    semantic = getattr(result, "semantic_mask", None)  # older versions have none
    if semantic is not None:
        label_map = to_numpy(semantic.data)
        if len(result.names) == 1:  # 0 is the background, 1 the class
            label_map = np.where(label_map == 1, 0, ULTRALYTICS_IGNORED)
        return Predicted(None, semantics_from_labels(label_map, at.image, table, f"{where}: semantic_mask"))
    if result.masks is None and (result.boxes is None or len(result.boxes)):
        got = "neither boxes nor masks" if result.boxes is None else "boxes without masks"
        raise PredictionsError(f"{where}: {got}; use a model of the task segment or semantic")
    if result.masks is None:
        return Predicted(ImageInstances.of(at.image, []), None)
    return Predicted(
        instances_from_masks(
            undo_letterbox(to_numpy(result.masks.data), (at.image.height, at.image.width)),
            result.boxes.conf,
            [table.category_id(label, is_thing=True, where=where) for label in to_numpy(result.boxes.cls).tolist()],
            at.image,
            where,
            boxes_xyxy=result.boxes.xyxy,
        ),
        None,
    )


def _read_supervision(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    where = f"{at.where}: supervision's Detections"
    for name in ("mask", "confidence", "class_id"):
        if getattr(result, name) is None and len(result):
            raise PredictionsError(f"{where}: no {name}; a panoptic map needs masks, scores and classes")
    if not len(result):
        return Predicted(ImageInstances.of(at.image, []), None)
    names = result.data.get("class_name") if reader.goes_by_names else None
    labels = result.class_id if names is None else names
    found = {"masks": np.asarray(result.mask), "scores": result.confidence, "boxes_xyxy": result.xyxy}
    return read_mask_dict(found | {"prompts" if names is not None else "labels": labels}, at.image, reader.table, where)


def _read_dict(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    return read_mask_dict(_as_mapping(result), at.image, reader.table, at.where, padding=at.padding)


def _as_mapping(result: Any) -> Mapping[str, Any]:
    """Of a dataclass its fields that are not None."""
    if isinstance(result, Mapping):
        return result
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: value for name, value in values.items() if value is not None}


def _read_array(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    scores = semantics_from_array(to_numpy(result), at.image, reader.table, f"{at.where}: array", padding=at.padding)
    return Predicted(None, scores)


def _read_cached(reader: ResultReader, result: Any, at: _Place) -> Predicted:
    where = f"{at.where}: {result!r}"
    refuse_other_size(where, at.image, result.hw)
    if result.cache.categories != reader.categories:
        raise PredictionsError(f"{where}: other categories than those to fuse; give a cache of the same data set")
    tables = result.cache.tables
    return Predicted(
        replace(result.instance_arrays, image_id=at.image.image_id) if "instances" in tables else None,
        replace(result.semantic.arrays, image_id=at.image.image_id) if "semantic" in tables else None,
    )


def _is_instances(result: Any) -> bool:
    return hasattr(result, "get_fields") and hasattr(result, "image_size")


def _is_supervision(result: Any) -> bool:
    return all(hasattr(result, name) for name in ("xyxy", "mask", "confidence", "class_id"))


def _is_ultralytics(result: Any) -> bool:
    return all(hasattr(result, name) for name in ("orig_shape", "boxes", "masks", "names"))


_READERS: Sequence[tuple[Callable[[Any], bool], Read]] = (
    (lambda result: hasattr(result, "cache") and hasattr(result, "image_id"), _read_cached),
    (_has("class_queries_logits", "pred_logits"), _read_queries),
    (_has("segments_info"), _read_segments_info),
    (_is_panoptic_seg, _read_panoptic_seg),
    (
        lambda result: isinstance(result, Mapping) and _has("instances", "panoptic_seg", "sem_seg")(result),
        _read_detectron2,
    ),
    (_is_instances, _read_instances),
    (_has("pred_instances", "pred_panoptic_seg", "pred_sem_seg"), _read_mmdet),
    (_is_ultralytics, _read_ultralytics),
    (_is_supervision, _read_supervision),
    (lambda result: isinstance(result, Mapping) or is_dataclass(result), _read_dict),
    (lambda result: hasattr(result, "shape"), _read_array),
)
"""What a result is like → how it is read; the first that fits."""
