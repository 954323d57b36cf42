"""A COCO panoptic data set as what models without panoptic output train on: COCO instances and semantic PNGs."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from antvisionps.core.atomic import atomic_folder, refuse_other_files
from antvisionps.core.errors import DataError
from antvisionps.core.file_names import path_below
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.coco_json import read_panoptic
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.gt_instances import visible_instances
from antvisionps.panoptic.segments import PanopticImage, map_ids
from antvisionps.parallel.images import map_images

MAX_LABEL = 2**16 - 1


def write_coco(annotations: Path, maps: Path, *, out: Path, workers: int) -> tuple[int, int]:
    """Replaces OUT by instances.json (the things, as RLE), semantic/*.png and categories.json; how many images and
    instances there are.

    A semantic PNG holds category ids, 8-bit where they fit; void is a label of no category, 0 where it can be. Raises
    DataError on what breaks the format.
    """
    dataset = read_panoptic(annotations, images_dir=maps, panoptic_dir=maps, is_foreign=True)
    refuse_other_files(out, names=("instances.json", "categories.json", "semantic"))
    void = void_label(dataset.categories, where=str(annotations))
    with atomic_folder(out) as folder:
        open_work = partial(_open_writing, dataset, folder / "semantic", void)
        found = map_images(open_work, dataset.images, workers=workers, description="convert")
        rows = [row for of_image in found for row in of_image]
        document = {
            "images": [_image_row(image) for image in dataset.images],
            "annotations": [{"id": number} | row for number, row in enumerate(rows, start=1)],
            "categories": [row for row in dataset.categories.to_json() if row["isthing"]],
        }
        (folder / "instances.json").write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
        categories = json.dumps(dataset.categories.to_json(), indent=1)
        (folder / "categories.json").write_text(categories + "\n", encoding="utf-8")
    return len(dataset.images), len(rows)


def void_label(categories: CategorySet, *, where: str) -> int:
    """The label of void pixels. Raises DataError where category ids do not fit a grey PNG."""
    ids = set(categories.category_ids.tolist())
    void = 0 if 0 not in ids else next(label for label in (255, MAX_LABEL, 256) if label not in ids)
    if max(*ids, void) > MAX_LABEL:
        raise DataError(f"{where}: expected category ids up to {MAX_LABEL}, as PNGs hold them, got {max(ids)}")
    return void


def _image_row(image: PanopticImage) -> dict[str, Any]:
    return {"id": image.source_id, "file_name": image.file_name, "height": image.height, "width": image.width}


def _open_writing(
    dataset: PanopticDataset, semantic: Path, void: int
) -> Callable[[PanopticImage], list[dict[str, Any]]]:
    return partial(_write_image, dataset, semantic, void)


def _write_image(dataset: PanopticDataset, semantic: Path, void: int, image: PanopticImage) -> list[dict[str, Any]]:
    """Writes the semantic PNG. The annotations of the things, without ids."""
    segment_ids = dataset.load_segment_ids(image)
    image = dataset.measure(image, segment_ids)
    category_of = {segment.segment_id: segment.category_id for segment in image.segments}
    labels = map_ids(segment_ids, category_of, np.uint16, otherwise=void)
    largest = max(void, int(dataset.categories.category_ids.max()))
    path = path_below(semantic, str(Path(image.file_name).with_suffix(".png")), error=DataError)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", labels.astype(np.uint8) if largest < 256 else labels)[1].tobytes())
    return _annotations(image, segment_ids, dataset.categories)


def _annotations(image: PanopticImage, segment_ids: np.ndarray, categories: CategorySet) -> list[dict[str, Any]]:
    things = [segment for segment in image.segments if categories.by_id(segment.category_id).is_thing]
    masks = visible_instances(segment_ids, image, categories).rles
    return [
        {
            "image_id": image.source_id,
            "category_id": segment.category_id,
            "iscrowd": int(segment.is_crowd),
            "area": segment.area_px,
            "bbox": list(segment.bbox_xywh),
            "segmentation": {"size": [image.height, image.width], "counts": mask.decode()},
        }
        for segment, mask in zip(things, masks, strict=True)
    ]
