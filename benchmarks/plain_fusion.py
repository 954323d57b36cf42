"""The plain way from two ends' predictions to PQ, which benchmarks/fusion.py holds ours against.

Full-resolution bilinear maps of all classes from both ends, averaged, argmax; RLE of every stuff class; panopticapi's
combine; panopticapi's PQ.
"""

import contextlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import panopticapi.combine_semantic_and_instance_predictions as combine
import panopticapi.evaluation as evaluation
from pycocotools import mask as coco_mask

from antvisionps.parallel.images import map_images
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.schema import INSTANCES_FILE, SEMANTIC_FILE
from antvisionps.predictions.semantic import SemanticReader
from benchmarks.coco_like import CATEGORIES, HEIGHT, STRIDE_OF_END, WIDTH, cache_paths
from benchmarks.coco_like_stages import MIN_STUFF_AREA_PX

Row = dict[str, Any]
MIN_SCORE, MAX_OVERLAP_FRAC = 0.5, 0.5


def plain_steps(root: Path, images: int, workers: int) -> dict[str, Callable[[], None]]:
    """What has to be run one after the other, by name."""
    (root / "plain").mkdir(exist_ok=True)
    found: list[tuple[list[Row], list[Row]]] = []
    predicted: list[Row] = []

    def average() -> None:
        found.extend(map_images(partial(_open_average, root), range(images), workers=workers, description="average"))

    def paste() -> None:
        predicted.extend(map_images(partial(_open_combine, root), found, workers=workers, description="combine"))

    def score() -> None:
        truth = json.loads((root / "prepared" / "val.json").read_text())["annotations"][:images]
        pairs = list(zip(truth, predicted, strict=True))
        for _ in map_images(partial(_open_pq, root), pairs, workers=workers, description="PQ"):
            pass

    return {"plain: average, argmax, RLE": average, "plain: panopticapi combine": paste, "plain: panopticapi PQ": score}


def _open_average(root: Path) -> Callable[[int], tuple[list[Row], list[Row]]]:
    cv2.setNumThreads(1)
    readers = [SemanticReader(path) for path in cache_paths(root, SEMANTIC_FILE)]

    def full_resolution(image_id: int) -> tuple[list[Row], list[Row]]:
        average = np.zeros((len(CATEGORIES), HEIGHT, WIDTH), dtype=np.float32)
        for reader in readers:
            image = reader.read(image_id)
            probs = np.zeros((len(CATEGORIES), *image.planes.shape[1:]), dtype=np.float32)
            probs[image.category_ids - 1] = image.planes / np.float32(255)
            for class_index, plane in enumerate(probs):
                average[class_index] += 0.5 * cv2.resize(plane, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        class_map = average.argmax(axis=0)
        stuff = []
        for category in CATEGORIES.stuff:
            mask = class_map == CATEGORIES.class_index(category.category_id)
            if mask.any():
                rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
                stuff.append({"image_id": image_id, "category_id": category.category_id, "segmentation": segmentation})
        return coco_results(root, range(image_id, image_id + 1)), stuff

    return full_resolution


def _open_combine(root: Path) -> Callable[[tuple[list[Row], list[Row]]], Row]:
    categories = {row["id"]: row for row in CATEGORIES.to_json()}

    def run(found: tuple[list[Row], list[Row]]) -> Row:
        instances, stuff = found
        image_id = stuff[0]["image_id"]
        kept = sorted((row for row in instances if row["score"] >= MIN_SCORE), key=lambda row: -row["score"])
        image = {"height": HEIGHT, "width": WIDTH, "file_name": f"{image_id:012d}.jpg"}
        out, limits = str(root / "plain"), (MAX_OVERLAP_FRAC, MIN_STUFF_AREA_PX)
        with contextlib.redirect_stdout(io.StringIO()):
            (row,) = combine.combine_to_panoptic_single_core(
                0, [image_id], {image_id: image}, {image_id: kept}, {image_id: stuff}, out, *limits, categories
            )
        return row

    return run


def _open_pq(root: Path) -> Callable[[tuple[Row, Row]], None]:
    categories = {row["id"]: row for row in CATEGORIES.to_json()}

    def run(pair: tuple[Row, Row]) -> None:
        folders = str(root / "prepared" / "panoptic_val"), str(root / "plain")
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.pq_compute_single_core(0, [pair], *folders, categories)

    return run


def coco_results(root: Path, image_ids: range) -> list[Row]:
    """The routed instances as the rows of a COCO results file."""
    routes = json.loads((root / "routing" / "routing.json").read_text())["categories"]
    end_of = {row["category_id"]: row["end"] for row in routes}
    rows = []
    for end, path in zip(STRIDE_OF_END, cache_paths(root, INSTANCES_FILE), strict=True):
        with InstancesReader(path, mask_probs=False) as reader:
            for image in map(reader.read, image_ids):
                for category_id, score, rle in zip(
                    image.category_ids.tolist(), image.scores.tolist(), image.rles, strict=True
                ):
                    if end_of[category_id] == end:
                        mask = {"size": [HEIGHT, WIDTH], "counts": rle.decode()}
                        rows.append(
                            {
                                "image_id": image.image_id,
                                "category_id": category_id,
                                "score": score,
                                "segmentation": mask,
                            }
                        )
    return rows
