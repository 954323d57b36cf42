"""The data of a run before the run: whether `prepare` takes them, and how many images of what size they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from antvisionps.core.errors import DataError
from antvisionps.datasets import cityscapes, scenes
from antvisionps.datasets.coco import PARTS
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.heldout import refuse_unusable_counts
from antvisionps.panoptic.splits import check_image, check_splits, read_folder, refuse_shared_photos
from antvisionps.params.prepare import PANOPTIC_INSTANCES, Prepare
from antvisionps.pipeline.prepare import instances_reader, split_files
from antvisionps.preflight.doctor import Finding

SAMPLE = 32
"""Images of a split that are opened."""

COCO_HW = (480, 640)
"""Most of COCO's photos; the benchmarks measure on pictures of this size."""

COCO_THINGS, COCO_STUFF = 80, 53
CITYSCAPES_HW, CITYSCAPES_IMAGES = (1024, 2048), {"train": 2975, "val": 500}
"""Cordts et al. 2016, section 2.3: the finely annotated images."""


@dataclass(frozen=True)
class ImageSet:
    """Images of train and val as they come and how many are taken out of train; their usual size, and their categories.

    `source` says where that is known from.
    """

    train: int
    val: int
    heldout: int
    monitor: int
    hw: tuple[int, int]
    categories: CategorySet
    source: str

    @property
    def predicted(self) -> int:
        return self.heldout + self.val


def look_at_data(prepare: Prepare) -> tuple[ImageSet, list[Finding]]:
    """What these params prepare, read as `prepare` reads it but for most photos and maps; what was found.

    COCO's own numbers stand for data that are not there or that cannot be read.
    """
    if findings := list(missing_data(prepare)):
        return _published(prepare), findings
    try:
        images, how = _look(prepare)
    except DataError as error:
        remedy = "mend the data, or section prepare of the params; `dvc repro prepare` stops with the same message"
        return _published(prepare), [Finding("wrong", "data", str(error), remedy)]
    return images, [Finding("ok", "data", f"{prepare.source}: {how}")]


def _look(prepare: Prepare) -> tuple[ImageSet, str]:
    if prepare.cityscapes is not None and prepare.source == "cityscapes":
        root = Path(prepare.cityscapes.root)
        counts = cityscapes.check_cityscapes(root, sample=_spread)
        refuse_unusable_counts(counts["train"], *_taken_out(prepare))
        hw, categories = CITYSCAPES_HW, cityscapes.CATEGORIES
        images = ImageSet(counts["train"], counts["val"], *_taken_out(prepare), hw, categories, f"{root}: counted")
        return images, _what_was_read("file names", list(counts.values()))
    if prepare.coco_panoptic is not None and prepare.source == "coco_panoptic":
        train, val = read_folder(prepare.coco_panoptic.root, **split_files(prepare.coco_panoptic))
        check_splits(train, val, *_taken_out(prepare))
        if (read_instances := instances_reader(prepare)) is not None:
            read_instances(train)
        of_train, of_val = ([check_image(split, image) for image in _spread(split.images)] for split in (train, val))
        refuse_shared_photos(train, of_train, val, of_val)
        how = _what_was_read("annotations", [len(train.images), len(val.images)])
        return _of_splits(prepare, train, val), how
    return _published(prepare), "made by prepare itself"


def _taken_out(prepare: Prepare) -> tuple[int, int]:
    """How many images of train are held out and how many monitor training."""
    return prepare.heldout_images, prepare.monitor_images


def _what_was_read(listed: str, counts: Sequence[int]) -> str:
    opened = sum(min(count, SAMPLE) for count in counts)
    if opened == sum(counts):
        return f"prepare takes its {listed} and all {opened:,} photos and maps"
    return (
        f"prepare takes its {listed} and {opened:,} of {sum(counts):,} photos and maps; not looked at: the others, and "
        "whether one of them is in train and in val"
    )


Item = TypeVar("Item")


def _spread(items: Sequence[Item]) -> list[Item]:
    """SAMPLE of them from the first to the last, or all."""
    count = min(SAMPLE, len(items))
    return [items[place * (len(items) - 1) // max(1, count - 1)] for place in range(count)]


def _of_splits(prepare: Prepare, train: PanopticDataset, val: PanopticDataset) -> ImageSet:
    height, width = (int(median(getattr(image, side) for image in val.images)) for side in ("height", "width"))
    counts = (len(train.images), len(val.images))
    source = f"{train.annotations} and {val.annotations}"
    return ImageSet(*counts, *_taken_out(prepare), (height, width), val.categories, source)


def _published(prepare: Prepare) -> ImageSet:
    """As the params or the data set's authors have it."""
    if prepare.source == "scenes" and prepare.scenes is not None:
        of = prepare.scenes
        train, hw = of.train_images + prepare.monitor_images, (of.height_px, of.width_px)
        return ImageSet(train, of.val_images, *_taken_out(prepare), hw, scenes.CATEGORIES, "the params")
    if prepare.source == "cityscapes":
        train, val = CITYSCAPES_IMAGES["train"], CITYSCAPES_IMAGES["val"]
        source = "Cityscapes' fine annotations, as published"
        return ImageSet(train, val, *_taken_out(prepare), CITYSCAPES_HW, cityscapes.CATEGORIES, source)
    train, val = (PARTS[name].files_in[name] for name in ("train2017", "val2017"))
    return ImageSet(train, val, *_taken_out(prepare), COCO_HW, coco_like_categories(), "COCO 2017, as published")


def missing_data(prepare: Prepare) -> Iterator[Finding]:
    """A finding for each file or folder that prepare reads and that is not there; a relative root starts at
    the working folder, where the stages run."""
    if prepare.source == "cityscapes" and prepare.cityscapes is not None:
        root = Path(prepare.cityscapes.root)
        remedy = f"unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into {root}"
        yield from _missing([root / name for name in ("leftImg8bit", "gtFine")], remedy)
    elif prepare.source == "coco_panoptic" and prepare.coco_panoptic is not None:
        folder = prepare.coco_panoptic
        names = [
            name
            for split in (folder.train, folder.val)
            for name in (split.annotations, split.panoptic_dir, split.images_dir)
        ]
        if prepare.instances != PANOPTIC_INSTANCES:
            names.append(prepare.instances)
        paths = [Path(folder.root) / name for name in dict.fromkeys(names)]
        is_coco = {"train2017", "val2017"} == {folder.train.images_dir, folder.val.images_dir}
        remedy = (
            f"antvisionps download coco --to {folder.root}"
            if is_coco
            else "put it there, or mend prepare in the params"
        )
        yield from _missing(paths, remedy)


def download_bytes() -> int:
    """What `antvisionps download coco` needs at most: the archives, and as much again for what is in them."""
    return sum(2 * part.size_bytes for part in PARTS.values())


def _missing(paths: list[Path], remedy: str) -> Iterator[Finding]:
    for path in paths:
        whole = path.absolute()
        if not whole.exists():
            shown = f"{path}" if path.is_absolute() else f"{path} ({whole})"
            yield Finding("wrong", "data", f"{shown}: not there; prepare reads it", remedy)


def coco_like_categories() -> CategorySet:
    """As many things and stuff as COCO has; the number of them is all that a network's size depends on."""
    described = [
        {"id": number, "name": f"category {number}", "isthing": int(number <= COCO_THINGS)}
        for number in range(1, 1 + COCO_THINGS + COCO_STUFF)
    ]
    return CategorySet.from_json(described, where="COCO")
