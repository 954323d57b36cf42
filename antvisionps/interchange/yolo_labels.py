"""Instances as Ultralytics' `save_txt` writes them with `save_conf`: a file an image, a row an instance.

A row is the class, which counts from 0, the corners x y of its outline as fractions of the photo's sides, and the
score. A photo on which nothing was found has no file. https://docs.ultralytics.com/datasets/segment/
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from antvisionps.core.errors import CacheError, PredictionsError, first_line
from antvisionps.core.input_files import read_file
from antvisionps.core.skipped import SkippedRows
from antvisionps.interchange.coco_results import Instance, checked_score
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.semantic_files import files_by_image
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.rle import encode_masks
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.instances import ImageInstances

SUFFIX = ".txt"

EXPECTED = "expected a class, three corners x y or more and a score, as segmentation models write with save_conf=True"


def read_yolo_labels(folder: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageInstances]:
    """Every image of the split, in ascending image_id.

    An outline is filled as OpenCV, with which Ultralytics draws it, fills it. Of a mask of a pixel or two it has fewer
    than three corners: such rows are left out, with a warning. Raises PredictionsError on a file of no image, a row
    that is not as above, a label without category, the same row twice, and where no row has three corners.
    """
    file_of_image = files_by_image(folder, dataset, [SUFFIX])
    skipped, outlines, short = SkippedRows(str(folder)), 0, list[str]()
    for image in dataset.images:
        path = file_of_image.get(image.image_id)
        instances, without = (ImageInstances.of(image, []), []) if path is None else _read(path, image, labels)
        for where in without:
            skipped.add("rows of fewer than three corners are left out", where)
        outlines, short = outlines + len(instances), short or without
        yield instances
    if short and not outlines:
        raise PredictionsError(f"{short[0]}: {EXPECTED}, got no outline in any file")
    skipped.tell()


def _read(path: Path, image: PanopticImage, labels: LabelTable) -> tuple[ImageInstances, list[str]]:
    """And the places of rows without an outline."""
    try:
        rows = [
            (row, f"{path}: line {i}") for i, row in enumerate(read_file(path).decode().split("\n"), start=1) if row
        ]
        parsed = [(row, where, _parse(row, image, labels, where)) for row, where in rows]
        found = [(row, instance) for row, _, instance in parsed if instance is not None]
        if len(dict(found)) < len(found):
            raise PredictionsError(f"{path}: the same row twice; save_txt appends, so empty the folder before a run")
        short = [where for _, where, instance in parsed if instance is None]
        return ImageInstances.of(image, [instance for _, instance in found]), short
    except (OSError, UnicodeError, CacheError) as error:
        raise PredictionsError(f"{path}: cannot be read ({first_line(error)}); write it again") from error


def _parse(row: str, image: PanopticImage, labels: LabelTable, where: str) -> Instance | None:
    """None of a row without an outline."""
    try:
        label, *corners, score = map(float, row.split())
    except ValueError:
        raise PredictionsError(f"{where}: expected numbers, got {row[:80]!r}") from None
    if len(corners) % 2:
        raise PredictionsError(f"{where}: {EXPECTED}, got {len(corners) + 2} numbers")
    if len(corners) < 6:
        return None
    category_id = labels.category_id(label, is_thing=True, where=where)
    mask = _fill(np.reshape(corners, (-1, 2)), image, where)
    return category_id, checked_score(score, where), tuple(cv2.boundingRect(mask)), encode_masks(mask[None])[0]


def _fill(corners: np.ndarray, image: PanopticImage, where: str) -> np.ndarray:
    """(H, W) uint8. Corners a little outside are cut off."""
    if not (np.abs(corners - 0.5) <= 1.5).all():  # false for NaN
        raise PredictionsError(
            f"{where}: expected corners as fractions of the photo's sides, got {corners.tolist()[0]}"
        )
    mask = np.zeros((image.height, image.width), dtype=np.uint8)
    points = np.rint(corners * [image.width, image.height]).astype(np.int32)
    return cv2.fillPoly(mask, [points], 1)
