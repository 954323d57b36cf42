"""A YOLO segmentation folder: data.yaml, photos below `images` and, of the same names below `labels`, a text file each.

A line is `class x y x y x y ...` with corners as parts of the photo's width and height. Format:
https://docs.ultralytics.com/datasets/segment.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import read_file
from antvisionps.core.skipped import SkippedRows
from antvisionps.datasets.conversion.photos import photo_hw
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted, number_from_1
from antvisionps.datasets.pictures import find_pictures
from antvisionps.panoptic.gt_instances import Instance
from antvisionps.panoptic.ids import whole_number
from antvisionps.panoptic.polygons import encode_polygons, has_area
from antvisionps.parallel.images import map_images

BOX = 4
"""Numbers of a line that has a box in place of an outline."""


def read_yolo(data_yaml: Path, document: Any, wanted: Wanted, *, workers: int) -> SourceSet:
    """`document` is what data.yaml holds. Images are numbered from 1 in the order of their names, train's first; a
    photo without a file has no instance.

    A category's id is its number in data.yaml, unless the table names it with another. Lines without area and boxes are
    skipped with a warning.
    """
    names = _names(data_yaml, document)
    if wanted.rows:
        categories = wanted.of_names(names.values(), where=str(data_yaml))
    else:
        categories = wanted.of_rows([{"id": i, "name": name} for i, name in names.items()], where=str(data_yaml))
    id_of_name = {category.name: category.category_id for category in categories.categories}
    id_of = {number: id_of_name[name] for number, name in names.items()}
    found: dict[str, list[SourceImage]] = {}
    for split in ("train", "val"):
        if document.get(split):
            photos = _photos(data_yaml, document, split)
            found[split] = _read_split(data_yaml, photos, id_of, split, workers)
    if "train" not in found:
        raise DataError(f"{data_yaml}: expected the photos' folder under `train`, got none")
    return number_from_1(categories, found)


def _names(path: Path, document: Any) -> dict[int, str]:
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(number) is int for number in names):
        raise DataError(f"{path}: expected `names`, a list or a table of numbers, got {str(names)[:80]}")
    return {number: str(name) for number, name in names.items()}


def _photos(path: Path, document: dict[str, Any], split: str) -> list[Path]:
    """Of the folders or lists of photos that data.yaml names, relative to its `path`, sorted."""
    root = path.parent / str(document.get("path") or "")
    root = root if root.is_dir() else path.parent
    named = document[split] if isinstance(document[split], list) else [document[split]]
    photos: list[Path] = []
    for place in (_place(root, str(name)) for name in named):
        if place.suffix == ".txt" and place.is_file():
            photos += _listed(place)
        else:
            photos += [picture.path for picture in find_pictures([place])[0]]
    return sorted(photos)


def _listed(path: Path) -> list[Path]:
    """The photos that a text file lists, a line each."""
    lines = read_file(path).decode(errors="replace").splitlines()
    return [_place(path.parent, line.strip()) for line in lines if line.strip()]


def _place(root: Path, name: str) -> Path:
    """Roboflow's data.yaml names its own folder's parent where it means the folder."""
    return root / name if (root / name).exists() or not name.startswith("../") else root / name.removeprefix("../")


def _read_split(
    data_yaml: Path, photos: list[Path], id_of: dict[int, int], split: str, workers: int
) -> list[SourceImage]:
    images, skipped = [], SkippedRows(str(data_yaml))
    lines = 0
    open_work = partial(_open_reading, id_of)
    for image, boxes, pointless in map_images(open_work, photos, workers=workers, description=f"read {split}"):
        images.append(image)
        lines += len(image.regions)
        for _ in range(boxes):
            skipped.add("boxes without outline are skipped", image.photo.name)
        for _ in range(pointless):
            skipped.add("outlines without area are skipped", image.photo.name)
    if not lines:
        raise DataError(
            f"{data_yaml}: {split}: no outline in the labels of {len(photos)} photos; YOLO's segmentation has them"
        )
    skipped.tell()
    return images


def _open_reading(id_of: dict[int, int]) -> Callable[[Path], tuple[SourceImage, int, int]]:
    return partial(_read, id_of)


def _read(id_of: dict[int, int], photo: Path) -> tuple[SourceImage, int, int]:
    """The image; how many boxes and how many outlines without area are left out."""
    height, width = photo_hw(photo)
    path = _labels_of(photo)
    regions: list[Instance] = []
    boxes = pointless = 0
    text = read_file(path).decode(errors="replace") if path.is_file() else ""
    for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
        try:
            category_id, polygon = _parse(line, id_of, height, width)
            area = len(polygon) > BOX and has_area(polygon, height=height, width=width)
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {error}; correct it") from error
        rle = encode_polygons([polygon], height=height, width=width) if area else None
        if rle is not None:
            regions.append((category_id, False, rle))
        elif len(polygon) == BOX:
            boxes += 1
        else:
            pointless += 1
    return SourceImage(0, photo, height, width, tuple(regions)), boxes, pointless


def _labels_of(photo: Path) -> Path:
    """As Ultralytics finds them: `labels` in place of the last `images` of the path."""
    folders = list(photo.parts[:-1])
    if "images" in folders:
        place = len(folders) - 1 - folders[::-1].index("images")
        folders[place] = "labels"
    return Path(*folders, photo.stem + ".txt")


def _parse(line: str, id_of: dict[int, int], height: int, width: int) -> tuple[int, list[float]]:
    number, *corners = line.split()
    category = whole_number(float(number))
    if category not in id_of:
        raise ValueError(f"expected a class of {sorted(id_of)}, got {number}")
    if not corners or len(corners) % 2:
        raise ValueError(f"expected pairs of corners behind the class, got {len(corners)} numbers")
    return id_of[category], [float(corner) * (height if i % 2 else width) for i, corner in enumerate(corners)]
