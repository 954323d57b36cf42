"""A folder of Labelme: a JSON beside each photo, with `shapes` of a label and points in pixels of the photo.

Shapes of one label and one `group_id` are parts of one thing. A photo that is no file is read from the JSON, where
Labelme embeds it in `imageData`. Format: https://github.com/wkentaro/labelme, LabelFile.
"""

import base64
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import files_below
from antvisionps.core.json_files import read_json
from antvisionps.core.skipped import SkippedRows
from antvisionps.datasets.conversion.photos import PhotoFinder, annotated_hw
from antvisionps.datasets.conversion.source import SourceImage, SourceSet, Wanted, number_from_1
from antvisionps.datasets.pictures import picture_suffixes
from antvisionps.panoptic.ids import one_line
from antvisionps.panoptic.photo import read_hw
from antvisionps.panoptic.png import decode_labels
from antvisionps.panoptic.polygons import encode_polygons, has_area
from antvisionps.panoptic.rle import encode_masks
from antvisionps.parallel.images import map_images

NOT_LABELS = frozenset({"_background_", "__ignore__"})
"""Labelme's own names of what is void."""

JPEG = b"\xff\xd8"
"""What begins the photos that Labelme does not embed as PNGs."""

CIRCLE_CORNERS = 64

_REMEDY = "save it again with Labelme, or remove it"


class _Photo(NamedTuple):
    """Its file; or the path that it would have, with the JSON that it is embedded in and its (H, W)."""

    path: Path
    json: Path | None = None
    hw: tuple[int, int] | None = None


class _Shapes(NamedTuple):
    """What one JSON holds: the (H, W) of its photo, (label, mask) of each thing or region, and the shapes that have no
    area."""

    photo: _Photo
    hw: tuple[int, int]
    regions: list[tuple[str, bytes]]
    skipped: list[str]


def read_labelme(splits: dict[str, Path], wanted: Wanted, *, workers: int) -> SourceSet:
    """Images are numbered from 1 in the order of their JSONs' names, train's first; photos without a JSON are left out.

    Points, lines and shapes without area are skipped with a warning.
    """
    shapes = {name: _read_folder(folder, name, workers) for name, folder in splits.items()}
    labels = {label for images in shapes.values() for one in images for label, _ in one.regions}
    where = str(next(iter(splits.values())))
    categories = wanted.of_names(labels - NOT_LABELS, where=where)
    id_of = {category.name: category.category_id for category in categories.categories}
    return number_from_1(categories, {name: [_image(one, id_of) for one in images] for name, images in shapes.items()})


def _image(one: _Shapes, id_of: dict[str, int]) -> SourceImage:
    regions = tuple((id_of[label], False, mask) for label, mask in one.regions if label in id_of)
    read_photo = None if one.photo.json is None else partial(_embedded_photo, one.photo.json)
    return SourceImage(0, one.photo.path, *one.hw, regions, read_photo=read_photo)


def _read_folder(folder: Path, split: str, workers: int) -> list[_Shapes]:
    photos = PhotoFinder(folder)
    paths = [path for path in files_below(folder) if path.suffix.lower() == ".json"]
    if not paths:
        raise DataError(f"{folder}: no JSON in this folder; expected one of Labelme's for each photo")
    found = list(map_images(partial(_open_reading, photos), paths, workers=workers, description=f"read {split}"))
    skipped = SkippedRows(str(folder))
    pictures = {name for name in photos.names() if Path(name).suffix.lower() in picture_suffixes()}
    for name in sorted(pictures - {one.photo.path.name for one in found}):
        skipped.add("photos without a JSON are left out", name)
    for path, one in zip(paths, found, strict=True):
        for kind in one.skipped:
            skipped.add(f"shapes without area are skipped ({kind})", path.name)
    skipped.tell()
    return found


def _open_reading(photos: PhotoFinder) -> Callable[[Path], _Shapes]:
    return partial(_read, photos)


def _read(photos: PhotoFinder, path: Path) -> _Shapes:
    document = read_json(path, what="Labelme JSON", remedy=_REMEDY, error=DataError)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError(f"{path}: expected Labelme's object with `shapes`; {_REMEDY}")
    try:
        photo = _find_photo(photos, path, document)
        hw = _photo_hw(photo, document.get("imageHeight"), document.get("imageWidth"))
        return _Shapes(photo, hw, *_regions(document["shapes"], hw))
    except ValueError as error:
        raise DataError(f"{path}: {error}; {_REMEDY}") from error


def _find_photo(photos: PhotoFinder, path: Path, document: dict[str, Any]) -> _Photo:
    """The file `imagePath`, else `imageData`."""
    given, data = document.get("imagePath"), document.get("imageData")
    if given is None and data is None:
        raise ValueError("expected a photo under imagePath or imageData, got neither")
    name = None if given is None else one_line(given)
    if name is not None and (path.parent / name).is_file():
        return _Photo(path.parent / name)
    found = None if name is None else photos.look_up(name)
    if found is None and data is not None:
        return _embedded(path, data)
    return _Photo(found or photos.find(str(name), where=str(path)))


def _embedded(path: Path, data: object) -> _Photo:
    try:
        photo = _decode(data)
        with NamedTemporaryFile() as file:
            file.write(photo)
            file.flush()
            hw = read_hw(Path(file.name))
    except ValueError as error:
        raise ValueError(f"imageData: expected the base64 of a photo, got {str(data)[:40]!r}") from error
    return _Photo(path.with_suffix(".jpg" if photo.startswith(JPEG) else ".png"), path, hw)


def _decode(data: object) -> bytes:
    if not isinstance(data, str):
        raise ValueError("no text")
    return base64.b64decode(data)


def _embedded_photo(path: Path) -> bytes:
    return _decode(read_json(path, what="Labelme JSON", remedy=_REMEDY, error=DataError).get("imageData"))


def _photo_hw(photo: _Photo, height: object, width: object) -> tuple[int, int]:
    """What the JSON says, else the photo."""
    if photo.hw is not None and (height is None or width is None):
        return photo.hw
    return annotated_hw(height, width, photo.path)


def _regions(shapes: Sequence[Any], hw: tuple[int, int]) -> tuple[list[tuple[str, bytes]], list[str]]:
    """(label, mask) of each, parts of a group together, and what kinds of shapes are skipped."""
    parts: defaultdict[tuple[str, object], list[bytes]] = defaultdict(list)
    skipped = []
    for position, shape in enumerate(shapes):
        if not isinstance(shape, dict):
            raise ValueError(f"shape {position}: expected an object, got {str(shape)[:80]}")
        label, group = one_line(shape.get("label")), shape.get("group_id")
        try:
            mask = _mask(shape, hw)
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"shape {position} ({label}): {error}") from error
        if mask is None:
            skipped.append(_kind(shape))
        else:
            parts[label, position if group is None else f"group {group}"].append(mask)
    return [(label, _join(masks, hw)) for (label, _), masks in parts.items()], skipped


def _kind(shape: dict[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")


def _join(masks: list[bytes], hw: tuple[int, int]) -> bytes:
    joined: bytes = coco_mask.merge([{"size": [*hw], "counts": mask} for mask in masks])["counts"]
    return joined


def _mask(shape: dict[str, Any], hw: tuple[int, int]) -> bytes | None:
    """COCO compressed counts, None of what has no area. Raises ValueError, TypeError or LookupError if broken."""
    points = [[float(x), float(y)] for x, y in shape["points"]]
    if _kind(shape) == "mask":
        return _painted(points, shape.get("mask"), hw)
    outline = _OUTLINES.get(_kind(shape))
    polygon = [] if outline is None else [coordinate for point in outline(points) for coordinate in point]
    if not has_area(polygon, height=hw[0], width=hw[1]):
        return None
    return encode_polygons([polygon], height=hw[0], width=hw[1])


def _rectangle(points: list[list[float]]) -> list[list[float]]:
    """From two opposite corners, or from all four."""
    (x0, y0), (x1, y1) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def _circle(points: list[list[float]]) -> list[list[float]]:
    """From its middle and a point on it."""
    (x, y), (on_x, on_y) = points
    radius = math.hypot(on_x - x, on_y - y)
    angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
    corners: list[list[float]] = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).tolist()
    return corners


_OUTLINES: dict[str, Callable[[list[list[float]]], list[list[float]]]] = {
    "polygon": list,
    "rectangle": _rectangle,
    "oriented_rectangle": list,
    "circle": _circle,
}


def _painted(points: list[list[float]], png: Any, hw: tuple[int, int]) -> bytes | None:
    """Of a PNG in base64, whose top left pixel is at the first point."""
    crop = decode_labels(base64.b64decode(png, validate=True)) > 0
    mask = np.zeros(hw, dtype=bool)
    left, top = int(points[0][0]), int(points[0][1])  # as Labelme rounds
    height, width = min(crop.shape[0], hw[0] - top), min(crop.shape[1], hw[1] - left)
    if min(left, top) < 0 or min(height, width) < 1:
        raise ValueError(f"expected a mask in the photo, got one at {points[0]}")
    mask[top : top + height, left : left + width] = crop[:height, :width]
    return encode_masks(mask[None])[0] if mask.any() else None
