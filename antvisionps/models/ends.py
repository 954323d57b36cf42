"""From the trained networks of an end to its filled cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule

from antvisionps.categories import CategorySet
from antvisionps.coco_panoptic import PanopticDataset
from antvisionps.errors import ModelError
from antvisionps.models.e_ups import build_e_ups
from antvisionps.models.hrnet_aspp import build_hrnet_aspp
from antvisionps.models.inference import (
    ImagePrediction,
    SemanticPrediction,
    paste_mask,
    predict_image,
    predict_semantics,
)
from antvisionps.models.lwl_htc import build_lwl_htc
from antvisionps.models.two_stage import BoxScorer
from antvisionps.models.weights import load_weights, read_network
from antvisionps.predictions.instances import ImageInstances, InstancesWriter
from antvisionps.predictions.rle import encode_masks
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter
from antvisionps.progress import progress

BUILDERS: dict[str, Callable[..., BaseModule]] = {
    "e_ups": build_e_ups,
    "lwl_htc": build_lwl_htc,
    "hrnet_aspp": build_hrnet_aspp,
}
"""What each end's networks are built with."""


def open_networks(
    folders: Sequence[Path], *, categories: CategorySet, max_proposals: int, device: torch.device
) -> list[BaseModule]:
    """The trained networks in these folders, in evaluation mode on `device`.

    Raises ModelError where the weights are of another architecture, or of other categories than `categories`.
    """
    networks = []
    for folder in folders:
        described = read_network(folder)
        if described["categories"] != categories.to_json():
            raise ModelError(f"{folder}: trained on other categories than the data set has now; train it again")
        network = _build(described, test_proposals=max_proposals)
        load_weights(folder, network)
        networks.append(network.to(device).eval())
    return networks


def fill_cache(
    dataset: PanopticDataset,
    networks: Sequence[Any],
    weights: Sequence[float],
    *,
    header: CacheHeader,
    out_dir: Path,
    **settings: Any,
) -> None:
    """Predicts every image of a split and writes the cache; `settings` are `predict_image`'s.

    An end of semantics alone gets no file of instances, which is how readers know.
    """
    if not isinstance(networks[0], BoxScorer):
        _fill_semantics(dataset, networks, weights, header=header, out_dir=out_dir, **settings)
        return
    with (
        InstancesWriter(out_dir / INSTANCES_FILE, header) as instances,
        SemanticWriter(out_dir / SEMANTIC_FILE, header) as semantics,
    ):
        for image in progress(
            dataset.images, description=f"predict {header.end} {header.split}", total=len(dataset.images), unit="image"
        ):
            prediction = predict_image(dataset.load_photo(image), networks, weights, **settings)
            instances.write(to_instances(prediction, image_id=image.image_id, categories=dataset.categories))
            semantics.write(to_semantics(prediction, image_id=image.image_id, categories=dataset.categories))


def _fill_semantics(
    dataset: PanopticDataset,
    networks: Sequence[Any],
    weights: Sequence[float],
    *,
    header: CacheHeader,
    out_dir: Path,
    short_sides_px: Sequence[int],
    max_long_side_px: int,
    flip: bool,
    **_of_instances: Any,
) -> None:
    sizes: dict[str, Any] = {"short_sides_px": short_sides_px, "max_long_side_px": max_long_side_px, "flip": flip}
    with SemanticWriter(out_dir / SEMANTIC_FILE, header) as semantics:
        for image in progress(
            dataset.images, description=f"predict {header.end} {header.split}", total=len(dataset.images), unit="image"
        ):
            prediction = predict_semantics(dataset.load_photo(image), networks, weights, **sizes)
            semantics.write(to_semantics(prediction, image_id=image.image_id, categories=dataset.categories))


def to_instances(prediction: ImagePrediction, *, image_id: int, categories: CategorySet) -> ImageInstances:
    """The instances as the cache holds them; those whose mask has no pixel are left out."""
    rles, kept = [], []
    for index, (probs, box) in enumerate(zip(prediction.mask_probs, prediction.boxes_xyxy, strict=True)):
        mask = paste_mask(probs, box, prediction.image_hw)
        if mask.any():
            rles.extend(encode_masks(mask[None]))
            kept.append(index)
    boxes = prediction.boxes_xyxy[kept]
    return ImageInstances(
        image_id=image_id,
        height=prediction.image_hw[0],
        width=prediction.image_hw[1],
        category_ids=categories.category_ids[prediction.class_indices[kept]],
        scores=prediction.scores[kept].astype(np.float32),
        boxes_xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32),
        rles=rles,
        mask_probs=np.rint(prediction.mask_probs[kept] * 255).astype(np.uint8),
    )


def to_semantics(prediction: SemanticPrediction, *, image_id: int, categories: CategorySet) -> ImageSemantics:
    """The semantic probabilities as the cache holds them."""
    return ImageSemantics.from_probs(
        image_id=image_id,
        height=prediction.image_hw[0],
        width=prediction.image_hw[1],
        input_height=prediction.input_hw[0],
        input_width=prediction.input_hw[1],
        stride=prediction.semantic_stride,
        category_ids=categories.category_ids,
        probs=prediction.semantic_probs,
    )


def _build(described: Mapping[str, Any], *, test_proposals: int) -> BaseModule:
    try:
        builder = BUILDERS[described["end"]]
    except KeyError:
        raise ModelError(
            f"no network is known for end {described.get('end')}; expected one of {list(BUILDERS)}"
        ) from None
    return builder(
        num_things=described["num_things"],
        num_classes=described["num_classes"],
        test_proposals=test_proposals,
        **described["network"],
    )
