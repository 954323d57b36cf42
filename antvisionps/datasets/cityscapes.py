"""Cityscapes (Cordts et al. 2016) in its official layout, as a panoptic data set.

    ROOT/leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png
    ROOT/gtFine/{train,val}/CITY/NAME_gtFine_instanceIds.png

A pixel of instanceIds is label · 1000 + number inside an instance. Elsewhere it is the label alone: on stuff, on what
the benchmark ignores, and on things too close to tell apart, which become a crowd. A segment keeps that number as its
id, as in the benchmark's own conversion to panoptic PNGs. Labels: https://github.com/mcordts/cityscapesScripts.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.errors import DataError
from antvisionps.core.input_files import is_hidden, read_file
from antvisionps.datasets.instance_ids import SegmentMap, label_of, to_segment_map
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import decode_labels, write_segment_ids_png
from antvisionps.panoptic.segments import PanopticImage, measure_segments
from antvisionps.panoptic.splits import refuse_missing, write_splits
from antvisionps.parallel.images import map_images

_COLOR_OF_STUFF = {
    7: ("road", (128, 64, 128)),
    8: ("sidewalk", (244, 35, 232)),
    11: ("building", (70, 70, 70)),
    12: ("wall", (102, 102, 156)),
    13: ("fence", (190, 153, 153)),
    17: ("pole", (153, 153, 153)),
    19: ("traffic light", (250, 170, 30)),
    20: ("traffic sign", (220, 220, 0)),
    21: ("vegetation", (107, 142, 35)),
    22: ("terrain", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
}
_COLOR_OF_THINGS = {
    24: ("person", (220, 20, 60)),
    25: ("rider", (255, 0, 0)),
    26: ("car", (0, 0, 142)),
    27: ("truck", (0, 0, 70)),
    28: ("bus", (0, 60, 100)),
    31: ("train", (0, 80, 100)),
    32: ("motorcycle", (0, 0, 230)),
    33: ("bicycle", (119, 11, 32)),
}
CATEGORIES = CategorySet.from_json(
    [
        {"id": label, "name": name, "isthing": int(colors is _COLOR_OF_THINGS), "color": color}
        for colors in (_COLOR_OF_STUFF, _COLOR_OF_THINGS)
        for label, (name, color) in colors.items()
    ],
    where="Cityscapes",
)
"""The benchmark's 19; a category id is the label."""

LAST_LABEL = 33
"""Labels 0 to 33 occur; those that are no category are void."""

FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}
"""Ids follow the order of city and name from here."""

_PHOTO_SUFFIX, _LABELS_SUFFIX = "_leftImg8bit.png", "_gtFine_instanceIds.png"

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


def prepare_cityscapes(
    out: Path, *, root: Path, heldout_images: int, monitor_images: int = 0, seed: int, workers: int
) -> None:
    """Splits Cityscapes' train into train, heldout and monitor, takes its val, and writes panoptic PNGs and annotations
    to `out`. The photos stay where they lie.

    Raises DataError on a folder without the layout, a photo without labels or the reverse, and unreadable labels.
    """
    with atomic_folder(out) as folder:
        train, val = (_convert(folder, out, root, split, workers) for split in SPLITS)
        write_splits(
            folder,
            train=train,
            val=val,
            root=None,
            heldout_images=heldout_images,
            monitor_images=monitor_images,
            seed=seed,
            workers=workers,
        )


def check_cityscapes(root: Path, *, sample: Callable[[list[Path]], list[Path]]) -> dict[Split, int]:
    """The images of each split, of which those that `sample` picks are read. Raises what `prepare_cityscapes` does."""
    counts: dict[Split, int] = {}
    for split in SPLITS:
        names = _names(root, split)
        counts[split] = len(names)
        for name in sample(names):
            image = _read_image(root / "gtFine" / split, 1, name)[1]
            PanopticDataset(root, root / "leftImg8bit" / split, root, CATEGORIES, (image,)).load_photo(image)
    return counts


def to_segments(instance_ids: np.ndarray, *, where: str) -> SegmentMap:
    """Raises DataError on a label that Cityscapes does not have."""
    unknown = next((value for value in np.unique(instance_ids).tolist() if label_of(value) > LAST_LABEL), None)
    if unknown is not None:
        raise DataError(
            f"{where}: expected labels from 0 to {LAST_LABEL}, got instance id {unknown}; fetch gtFine again"
        )
    return to_segment_map(instance_ids, CATEGORIES)


def _convert(folder: Path, out: Path, root: Path, split: Split, workers: int) -> PanopticDataset:
    names = _names(root, split)
    maps = folder / "panoptic" / split
    for city in {name.parent for name in names}:
        (maps / city).mkdir(parents=True, exist_ok=True)
    items = list(enumerate(names, start=FIRST_IMAGE_ID[split]))
    open_work = partial(_open_converting, root / "gtFine" / split, maps)
    images = tuple(map_images(open_work, items, workers=workers, description=f"convert {split}"))
    photos = root / "leftImg8bit" / split
    # Relative to `out`: the manifest still leads to the photos after both move together.
    images_dir = photos if photos.is_absolute() else folder / os.path.relpath(photos, out)
    return PanopticDataset(folder / f"{split}.json", images_dir, maps, CATEGORIES, images)


def _names(root: Path, split: Split) -> list[Path]:
    """CITY/NAME of each image, sorted."""
    refuse_missing(root, what="prepare.cityscapes.root")
    places = {_PHOTO_SUFFIX: root / "leftImg8bit" / split, _LABELS_SUFFIX: root / "gtFine" / split}
    found = {
        suffix: {
            name.with_name(name.name.removesuffix(suffix))
            for name in (path.relative_to(place) for path in place.glob(f"*/*{suffix}"))
            if not is_hidden(name)
        }
        for suffix, place in places.items()
    }
    for suffix, other in (tuple(places), tuple(places)[::-1]):
        if missing := sorted(found[other] - found[suffix]):
            raise DataError(
                f"{places[suffix]}: expected {missing[0]}{suffix}, as there is a {missing[0]}{other} "
                f"({len(missing)} like it); unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into {root}"
            )
    if not found[_LABELS_SUFFIX]:
        raise DataError(
            f"{places[_LABELS_SUFFIX]}: expected CITY/NAME{_LABELS_SUFFIX}, found none; unpack "
            f"leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into {root}"
        )
    return sorted(found[_LABELS_SUFFIX])


def _open_converting(labels: Path, maps: Path) -> Callable[[tuple[int, Path]], PanopticImage]:

    def convert(item: tuple[int, Path]) -> PanopticImage:
        image_id, name = item
        segment_ids, image = _read_image(labels, image_id, name)
        write_segment_ids_png(maps / image.panoptic_file_name, segment_ids)
        return image

    return convert


def _read_image(labels: Path, image_id: int, name: Path) -> tuple[np.ndarray, PanopticImage]:
    """Its map (H, W) and what the map holds."""
    path = labels / f"{name}{_LABELS_SUFFIX}"
    segment_ids, category_ids, crowds = to_segments(_load_instance_ids(path), where=str(path))
    segments = measure_segments(segment_ids, category_ids=category_ids, crowd_ids=crowds)
    height, width = segment_ids.shape
    return segment_ids, PanopticImage(image_id, f"{name}{_PHOTO_SUFFIX}", f"{name}.png", height, width, segments)


def _load_instance_ids(path: Path) -> np.ndarray:
    try:
        return decode_labels(read_file(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected a grey 16-bit PNG, cannot be read ({reason}); fetch gtFine again") from error
