"""How many images of what size a run works on: from the data where they are, else what is published of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import is_hidden
from antvisionps.core.json_files import read_json
from antvisionps.datasets.coco import PARTS
from antvisionps.panoptic.categories import CategorySet
from antvisionps.params.prepare import CocoPanopticFolder, Prepare
from antvisionps.preflight.doctor import Finding

COCO_HW = (480, 640)
"""Most of COCO's photos; the benchmarks measure on pictures of this size."""

COCO_THINGS, COCO_STUFF = 80, 53
CITYSCAPES_HW, CITYSCAPES_IMAGES = (1024, 2048), {"train": 2975, "val": 500}
"""Cordts et al. 2016, section 2.3: the finely annotated images."""


@dataclass(frozen=True)
class ImageSet:
    """Images of train and val as they come and how many of train are held out; their usual size, and their categories.

    `source` says where that is known from.
    """

    train: int
    val: int
    heldout: int
    hw: tuple[int, int]
    categories: CategorySet
    source: str

    @property
    def predicted(self) -> int:
        return self.heldout + self.val


def find_images(prepare: Prepare) -> ImageSet:
    """What these params prepare; COCO's own numbers where the folder they name is not there."""
    if prepare.source == "scenes" and prepare.scenes is not None:
        from antvisionps.datasets.scenes import CATEGORIES

        scenes = prepare.scenes
        hw = (scenes.height_px, scenes.width_px)
        return ImageSet(scenes.train_images, scenes.val_images, prepare.heldout_images, hw, CATEGORIES, "the params")
    if prepare.source == "cityscapes":
        from antvisionps.datasets.cityscapes import CATEGORIES as CITYSCAPES

        counts = CITYSCAPES_IMAGES
        source = "Cityscapes' fine annotations"
        return ImageSet(counts["train"], counts["val"], prepare.heldout_images, CITYSCAPES_HW, CITYSCAPES, source)
    if prepare.coco_panoptic is not None and not list(missing_data(prepare)):
        return _in_folder(prepare.coco_panoptic, prepare.heldout_images)
    train, val = (PARTS[name].files_in[name] for name in ("train2017", "val2017"))
    return ImageSet(train, val, prepare.heldout_images, COCO_HW, coco_like_categories(), "COCO 2017, as published")


def missing_data(prepare: Prepare) -> Iterator[Finding]:
    """A finding for each file or folder that prepare reads and that is not there."""
    if prepare.source == "cityscapes" and prepare.cityscapes is not None:
        yield from _missing([Path(prepare.cityscapes.root) / name for name in ("leftImg8bit", "gtFine")], "")
    elif prepare.source == "coco_panoptic" and prepare.coco_panoptic is not None:
        folder = prepare.coco_panoptic
        paths = [
            Path(folder.root) / name
            for split in (folder.train, folder.val)
            for name in (split.annotations, split.panoptic_dir, split.images_dir)
        ]
        is_coco = {"train2017", "val2017"} == {folder.train.images_dir, folder.val.images_dir}
        yield from _missing(paths, f"antvisionps download coco --to {folder.root}" if is_coco else "")


def download_bytes() -> int:
    """What `antvisionps download coco` needs at most: the archives, and as much again for what is in them."""
    return sum(2 * part.size_bytes for part in PARTS.values())


def _missing(paths: list[Path], remedy: str) -> Iterator[Finding]:
    for path in paths:
        if not path.exists():
            yield Finding(
                "wrong", "data", f"{path}: not there; prepare reads it", remedy or "mend prepare in the params"
            )


def _in_folder(folder: CocoPanopticFolder, heldout: int) -> ImageSet:
    """Train's PNGs are counted; val's annotations tell the rest. Raises DataError where these cannot be read."""
    root = Path(folder.root)
    train = sum(not is_hidden(Path(entry.name)) for entry in os.scandir(root / folder.train.panoptic_dir))
    path = root / folder.val.annotations
    document = read_json(path, what="COCO panoptic JSON", remedy="check the paths in the params", error=DataError)
    try:
        sizes = [(image["height"], image["width"]) for image in document["images"]]
        hw = (int(median(height for height, _ in sizes)), int(median(width for _, width in sizes)))
        categories = CategorySet.from_json(document["categories"], where=str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a COCO panoptic JSON with images and categories ({error})") from error
    return ImageSet(train, len(sizes), heldout, hw, categories, f"{root}: train's PNGs counted, val's annotations read")


def coco_like_categories() -> CategorySet:
    """As many things and stuff as COCO has; the number of them is all that a network's size depends on."""
    described = [
        {"id": number, "name": f"category {number}", "isthing": int(number <= COCO_THINGS)}
        for number in range(1, 1 + COCO_THINGS + COCO_STUFF)
    ]
    return CategorySet.from_json(described, where="COCO")
