"""How good a network is while it is trained: its PQ and mask AP on the monitor split, at the middle of its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.dist import all_gather_object, get_dist_info

from antvisionps.models.inference.masks import paste_mask
from antvisionps.models.inference.views import PredictionSettings, predict_image
from antvisionps.models.monitor.panoptic_map import draw_map
from antvisionps.models.monitor.quality import Counts, ImageMasks, count_matches, mask_ap, panoptic_quality
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import GtInstancesReader, open_annotated, visible_instances
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import PanopticImage

MIN_SCORE, NMS_IOU, MAX_INSTANCES = 0.05, 0.5, 100
"""As at test time in mmdet's Mask R-CNN and HTC (test_cfg.rcnn)."""


@dataclass(frozen=True, eq=False)
class _Measured:
    """Of one image; `masks` is None where the network predicts semantics alone."""

    counts: Counts
    masks: ImageMasks | None


def measure(
    network: Any, dataset: PanopticDataset, *, short_sides_px: Sequence[int], max_long_side_px: int
) -> dict[str, float]:
    """PQ and AP, in percent, of a network in evaluation mode; AP only where there are instances, true and predicted.

    The PQ of a network of semantics alone is that of stuff. Photos are seen at the middle one of `short_sides_px`. Of
    several processes each predicts its share of the images, and all return the same.
    """
    settings = PredictionSettings(
        short_sides_px=[sorted(short_sides_px)[len(short_sides_px) // 2]],
        max_long_side_px=max_long_side_px,
        flip=False,
        min_score=MIN_SCORE,
        nms_iou=NMS_IOU,
        max_instances=MAX_INSTANCES,
    )
    rank, processes = get_dist_info()
    annotated = open_annotated(dataset)
    own = [_measure_image(network, dataset, image, annotated, settings) for image in dataset.images[rank::processes]]
    parts = all_gather_object(own)
    measured = [parts[place % processes][place // processes] for place in range(len(dataset.images))]
    return _summarise(measured, dataset.categories)


def _measure_image(
    network: Any,
    dataset: PanopticDataset,
    image: PanopticImage,
    annotated: GtInstancesReader | None,
    settings: PredictionSettings,
) -> _Measured:
    prediction = predict_image(dataset.load_photo(image), [network], [1.0], settings)
    found = prediction.instances
    boxes = () if found is None else zip(found.mask_probs, found.boxes_xyxy, strict=True)
    masks = [paste_mask(probs, box, prediction.image_hw) for probs, box in boxes]
    segment_ids = dataset.load_segment_ids(image)
    counts = count_matches(segment_ids, image.segments, draw_map(prediction, masks, dataset.categories))
    if found is None:
        return _Measured(counts, None)
    gt = (
        visible_instances(segment_ids, image, dataset.categories)
        if annotated is None
        else annotated.read(image.image_id)
    )
    category_ids = dataset.categories.category_ids[found.class_indices].tolist()
    rows = zip(category_ids, found.scores.tolist(), masks, strict=True)
    encoded = [(category_id, score, encode_masks(mask[None])[0]) for category_id, score, mask in rows if mask.any()]
    return _Measured(counts, ImageMasks(prediction.image_hw, gt, encoded))


def _summarise(measured: Sequence[_Measured], categories: CategorySet) -> dict[str, float]:
    masks = [one.masks for one in measured if one.masks is not None]
    seen = categories.categories if masks else categories.stuff
    pq = panoptic_quality((one.counts for one in measured), [category.category_id for category in seen])
    ap = mask_ap(masks, [category.category_id for category in categories.things]) if masks else None
    return {"PQ": 100 * pq} | ({} if ap is None else {"AP": 100 * ap})
