"""A COCO-panoptic folder of a user's, prepared and changed."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from antvisionps.panoptic.splits import SplitFiles, open_split, prepare_coco_panoptic, prepared_splits

TRAIN = SplitFiles("train.json", "panoptic", "images")
VAL = SplitFiles("val.json", "panoptic", "images")


def prepare_folder(folder: Path, *, heldout_images: int = 2, monitor_images: int = 0) -> Path:
    prepared = folder.parent / "prepared"
    counts = {"heldout_images": heldout_images, "monitor_images": monitor_images}
    prepare_coco_panoptic(prepared, root=str(folder), train=TRAIN, val=VAL, seed=0, **counts)
    return prepared


def ids_of_splits(prepared: Path) -> dict[str, list[int]]:
    return {name: [image.image_id for image in open_split(prepared, name).images] for name in prepared_splits(prepared)}


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def brighten(folder: Path) -> None:
    path = folder / "images" / f"{11:012d}.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
