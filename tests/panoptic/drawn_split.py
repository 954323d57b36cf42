"""A small data set of two drawn maps on disk: `panoptic.json`, `images/` and `panoptic/`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from antvisionps.panoptic.coco_json import read_panoptic, write_panoptic_json
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from tests.drawing import category_set

CATEGORIES = category_set({7: "dog"}, {4: "sky"})
SEGMENT_ID = {".": 0, "S": 5, "D": 300, "E": 70_000, "C": 16_777_215}
CATEGORY_ID = {5: 4, 300: 7, 70_000: 7, 16_777_215: 7}
CROWD_IDS = {16_777_215}

SCENE = """
    SSSSS.
    SDDEES
    SDDECC
    ......
"""


def segment_map(picture: str) -> np.ndarray:
    return np.array([[SEGMENT_ID[letter] for letter in row] for row in picture.split()], dtype=np.int32)


def write_split(folder: Path, pictures: dict[int, str]) -> PanopticDataset:
    """A small data set on disk, read back: `panoptic.json`, `images/` and `panoptic/`."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    images = []
    for image_id, picture in pictures.items():
        segment_ids = segment_map(picture)
        photo = np.random.default_rng(image_id).integers(0, 256, size=(*segment_ids.shape, 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{image_id}.png")
        write_segment_ids_png(folder / "panoptic" / f"{image_id}.png", segment_ids)
        segments = measure_segments(segment_ids, category_ids=CATEGORY_ID, crowd_ids=CROWD_IDS)
        images.append(PanopticImage(image_id, f"{image_id}.png", f"{image_id}.png", *segment_ids.shape, segments))
    write_panoptic_json(folder / "panoptic.json", categories=CATEGORIES, images=images)
    return open_split(folder)


def open_split(folder: Path) -> PanopticDataset:
    return read_panoptic(folder / "panoptic.json", images_dir=folder / "images", panoptic_dir=folder / "panoptic")


def edit(dataset: PanopticDataset, change) -> PanopticDataset:
    """The data set with its JSON changed by `change(document)`, read again."""
    document = json.loads(dataset.annotations.read_text())
    change(document)
    dataset.annotations.write_text(json.dumps(document))
    return open_split(dataset.annotations.parent)


def image_of(dataset: PanopticDataset, image_id: int) -> PanopticImage:
    return next(image for image in dataset.images if image.image_id == image_id)


def segments(document: dict) -> list:
    """Of image 3: segments 5 and 300."""
    return document["annotations"][0]["segments_info"]
