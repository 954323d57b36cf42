"""The COCO panoptic format: one JSON a split, one RGB PNG an image (segment id = R + 256 G + 256² B, 0 = void).

Everything that enters the pipeline comes through `read_panoptic`, `load_photo` and `load_segment_ids`, so this is where
a data set is validated; code behind them trusts what they return. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.core.garbage import collector_paused
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet, json_flag

MAX_SEGMENT_ID = 256**3 - 1
"""The largest id that three bytes of colour can hold."""

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Pillow's modes that turn into 8-bit RGB without loss; it would clip a 16-bit photo."""


class Segment(NamedTuple):  # made in two thirds of the time of a frozen dataclass
    """One region of a panoptic map, as its JSON describes it."""

    segment_id: int
    category_id: int
    area_px: int
    bbox_xywh: tuple[int, int, int, int]
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class PanopticImage:
    """One photo and its panoptic map; file names are relative to the split's folders."""

    image_id: int
    file_name: str
    panoptic_file_name: str
    height: int
    width: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class PanopticDataset:
    """One split. `images` are in ascending image_id; `instances` is the file of its true instances (gt_instances.py),
    None where they are the segments of its maps."""

    annotations: Path
    images_dir: Path
    panoptic_dir: Path
    categories: CategorySet
    images: tuple[PanopticImage, ...]
    instances: Path | None = None

    def photo_path(self, image: PanopticImage) -> Path:
        return self.images_dir / image.file_name

    def panoptic_path(self, image: PanopticImage) -> Path:
        return self.panoptic_dir / image.panoptic_file_name

    def load_photo(self, image: PanopticImage) -> np.ndarray:
        """(H, W, 3) uint8 RGB in the pixel grid of the file; an EXIF orientation is ignored, as COCO's annotations do.

        Raises DataError when the file is missing, truncated or of another size than the annotation says.
        """
        path = self.photo_path(image)
        try:
            with Image.open(path) as photo:
                if photo.mode not in EIGHT_BIT_MODES:
                    raise ValueError(f"8 bits a channel expected, got Pillow's mode {photo.mode}")
                rgb = np.asarray(photo.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._unreadable(path, "photo", image, error) from error
        self._check_size(path, image, rgb.shape[:2])
        return rgb

    def load_segment_ids(self, image: PanopticImage) -> np.ndarray:
        """(H, W) int32 segment ids, 0 = void.

        Raises DataError when the PNG is missing, truncated, not 8-bit RGB or of another size than the annotation says,
        when a pixel's id is not among the image's segments, and when a segment has no pixel.
        """
        path = self.panoptic_path(image)
        try:
            segment_ids = _decode_segment_ids(path.read_bytes())
        except (OSError, ValueError) as error:
            raise self._unreadable(path, "panoptic PNG", image, error) from error
        self._check_size(path, image, segment_ids.shape)
        self._check_segments(path, image, segment_ids)
        return segment_ids

    def check_areas(self, image: PanopticImage, segment_ids: np.ndarray) -> None:
        """Raises DataError when a segment's area in the JSON is not its number of pixels: PQ's union counts with it."""
        segments = sorted(image.segments, key=lambda segment: segment.segment_id)
        areas_px = _count_pixels(segment_ids, [segment.segment_id for segment in segments])
        for segment, got in zip(segments, areas_px, strict=True):
            if segment.area_px != got:
                raise DataError(
                    f"{self.annotations}: image {image.image_id}: segment {segment.segment_id}: expected as area its "
                    f"number of pixels in {self.panoptic_path(image)}, {got}, got {segment.area_px}; correct the area"
                )

    def _unreadable(self, path: Path, what: str, image: PanopticImage, error: Exception) -> DataError:
        reason = getattr(error, "strerror", None) or error
        return DataError(
            f"{path}: {what} of image {image.image_id} in {self.annotations} cannot be read whole ({reason}); "
            "put the right file there or remove the image"
        )

    def _check_size(self, path: Path, image: PanopticImage, got_hw: tuple[int, ...]) -> None:
        if got_hw != (image.height, image.width):
            raise DataError(
                f"{path}: expected {image.width}x{image.height} pixels (width x height of image {image.image_id} in "
                f"{self.annotations}), got {got_hw[1]}x{got_hw[0]}; correct the JSON or replace the file"
            )

    def _check_segments(self, path: Path, image: PanopticImage, segment_ids: np.ndarray) -> None:
        flat = segment_ids.ravel()
        present = {*flat[np.flatnonzero(flat[1:] != flat[:-1])].tolist(), int(flat[-1])} - {VOID_SEGMENT_ID}
        listed = {segment.segment_id for segment in image.segments}
        if present == listed:
            return
        unlisted, absent = sorted(present - listed), sorted(listed - present)
        problem = (
            f"has pixels of segment {unlisted[0]}, which segments_info of image {image.image_id} does not list"
            if unlisted
            else f"has no pixel of segment {absent[0]}, which segments_info of image {image.image_id} lists"
        )
        more = len(unlisted or absent) - 1
        also = f" (and {more} more like it)" if more else ""
        raise DataError(f"{path}: {problem}{also}; it and {self.annotations} do not belong together, write both again")


def rgb_to_segment_ids(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (H, W) int32: R + 256 G + 256² B."""
    return _pack(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2RGBA))


def segment_ids_to_rgb(segment_ids: np.ndarray) -> np.ndarray:
    """(H, W) integers from 0 to 256³ - 1 → (H, W, 3) uint8 RGB. Raises ValueError on an id out of that range."""
    return cv2.cvtColor(_unpack(segment_ids), cv2.COLOR_RGBA2RGB)


def class_index_map(segment_ids: np.ndarray, image: PanopticImage, categories: CategorySet) -> np.ndarray:
    """(H, W) uint8 class indices, VOID_CLASS_INDEX where void. A crowd's pixels have its class."""
    # Stored one higher, so that the ids nobody lists (0 in fresh memory) wrap around to 255 = VOID_CLASS_INDEX. Fresh
    # memory costs nothing until touched, so a table over all ids up to the largest beats a search.
    one_higher = np.zeros(int(segment_ids.max(initial=0)) + 1, dtype=np.uint8)
    for segment in image.segments:
        if segment.segment_id < len(one_higher):
            one_higher[segment.segment_id] = categories.class_index(segment.category_id) + 1
    return one_higher[segment_ids] - np.uint8(1)


def measure_segments(
    segment_ids: np.ndarray, *, category_ids: Mapping[int, int], crowd_ids: Set[int] = frozenset()
) -> tuple[Segment, ...]:
    """The segments of a map with their areas and boxes, in ascending segment id; `category_ids` is keyed by segment id.

    Raises KeyError when the map holds an id that `category_ids` lacks.
    """
    starts = run_starts(segment_ids)
    ids = segment_ids.ravel()[starts]
    return measure_runs(ids, starts, hw=segment_ids.shape, category_ids=category_ids, crowd_ids=crowd_ids)


def run_starts(*maps: np.ndarray) -> np.ndarray:
    """(R,) the flat index at which each run begins of pixels of a row on which every (H, W) map is constant.

    In raster order. A map has fifty times fewer runs than pixels, so what is counted over runs costs little.
    """
    starts_here = np.zeros(maps[0].size, dtype=bool)
    for flat in (one.ravel() for one in maps):
        starts_here[1:] |= flat[1:] != flat[:-1]
    starts_here.reshape(maps[0].shape)[:, 0] = True
    return np.flatnonzero(starts_here)


def measure_runs(
    ids: np.ndarray,
    starts: np.ndarray,
    *,
    hw: tuple[int, ...],
    category_ids: Mapping[int, int],
    crowd_ids: Set[int] = frozenset(),
) -> tuple[Segment, ...]:
    """`measure_segments` of a map of size hw whose runs, as `run_starts` finds them, are of the segments ids (R,)."""
    height, width = hw
    ys = starts // width
    x_starts = starts - ys * width
    x_ends = x_starts + np.diff(starts, append=height * width)
    # numpy sorts 16-bit integers by radix, ten times as fast as wider ones.
    order = np.argsort(ids.astype(np.uint16) if ids.max(initial=0) < 2**16 else ids, kind="stable")
    in_order = ids[order]
    first = np.append(0, np.flatnonzero(in_order[1:] != in_order[:-1]) + 1)
    # Within a segment the runs are in raster order still, so the first and the last tell its rows.
    last = np.append(first[1:], len(order)) - 1
    y0, y1 = ys[order[first]], ys[order[last]] + 1
    x0, x1 = np.minimum.reduceat(x_starts[order], first), np.maximum.reduceat(x_ends[order], first)
    areas = np.add.reduceat((x_ends - x_starts)[order], first)
    return tuple(
        Segment(segment_id, category_ids[segment_id], area, (x, y, right - x, bottom - y), segment_id in crowd_ids)
        for segment_id, area, x, y, right, bottom in np.stack([in_order[first], areas, x0, y0, x1, y1], axis=1).tolist()
        if segment_id != VOID_SEGMENT_ID
    )


@collector_paused()
def read_panoptic(annotations: Path, *, images_dir: Path, panoptic_dir: Path) -> PanopticDataset:
    """A split from its JSON, checked in itself; `check_files` tells whether its files are there.

    Raises DataError on a missing or broken JSON, a missing key, an empty split, a duplicate image id, file name or
    segment id, an unknown category, an image without annotation or the reverse.
    """
    document = _load_json(annotations)
    where = str(annotations)
    categories = CategorySet.from_json(_list_of(document, "categories", where), where=where)
    annotation_of = _annotations_by_image(_list_of(document, "annotations", where), where)
    images = [_parse_image(row, annotation_of, categories, where) for row in _list_of(document, "images", where)]
    if not images:
        raise DataError(f"{where}: expected at least one image, got none; this split is empty")
    images.sort(key=lambda image: image.image_id)
    _refuse_duplicates((image.image_id for image in images), "image id", where)
    _refuse_duplicates((image.file_name for image in images), "file name", where)
    _refuse_duplicates((image.panoptic_file_name for image in images), "panoptic file name", where)
    if len(annotation_of) > len(images):
        stray = min(annotation_of.keys() - {image.image_id for image in images})
        raise DataError(f"{where}: an annotation is for image {stray}, which `images` does not list; add or remove it")
    return PanopticDataset(annotations, images_dir, panoptic_dir, categories, tuple(images))


def check_files(dataset: PanopticDataset) -> None:
    """Raises DataError when a photo or a panoptic PNG of the split is missing. Lists folders, opens no file."""
    for what, folder, names in (
        ("photo", dataset.images_dir, [image.file_name for image in dataset.images]),
        ("panoptic PNG", dataset.panoptic_dir, [image.panoptic_file_name for image in dataset.images]),
    ):
        missing = _missing_files(folder, names)
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(names)} {what} files that {dataset.annotations} names are missing, "
                f"{missing[0]} first; put them there or remove their images from the JSON"
            )


@collector_paused()
def write_panoptic_json(path: Path, *, categories: CategorySet, images: Iterable[PanopticImage]) -> None:
    """Writes a split in COCO's layout; the same split gives the same bytes."""
    images = sorted(images, key=lambda image: image.image_id)
    document = {
        "images": [
            {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": [
            {
                "image_id": image.image_id,
                "file_name": image.panoptic_file_name,
                "segments_info": [_segment_to_json(segment) for segment in image.segments],
            }
            for image in images
        ],
        "categories": categories.to_json(),
    }
    with atomic_file(path) as unfinished:
        # dumps, not dump: only the former uses json's C encoder, three times as fast.
        unfinished.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.segment_id,
        "category_id": segment.category_id,
        "area": segment.area_px,
        "bbox": list(segment.bbox_xywh),
        "iscrowd": int(segment.is_crowd),
    }


def _load_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file; check the paths in params.yaml") from None
    except OSError as error:
        raise DataError(f"{path}: annotation file cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: broken or truncated JSON ({error}); fetch the file again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected a JSON object, got a {type(document).__name__}")
    return document


def _list_of(document: Mapping[str, Any], key: str, where: str) -> list[Any]:
    rows = document.get(key)
    if not isinstance(rows, list):
        got = "no such key" if key not in document else f"a {type(rows).__name__}"
        raise DataError(f"{where}: expected a list under {key!r}, got {got}; is this a COCO panoptic JSON?")
    return rows


def _annotations_by_image(rows: list[Any], where: str) -> dict[int, Mapping[str, Any]]:
    annotation_of: dict[int, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        image_id = _field(row, "image_id", int, f"{where}: annotation {position}")
        if image_id in annotation_of:
            raise DataError(f"{where}: image {image_id} has two annotations; keep one")
        annotation_of[image_id] = row
    return annotation_of


def _parse_image(
    row: Any, annotation_of: Mapping[int, Mapping[str, Any]], categories: CategorySet, where: str
) -> PanopticImage:
    image_id = _field(row, "id", int, f"{where}: an image")
    where = f"{where}: image {image_id}"
    height, width = _field(row, "height", int, where), _field(row, "width", int, where)
    if height < 1 or width < 1:
        raise DataError(f"{where}: expected a height and width of at least 1, got {height}x{width}")
    if image_id not in annotation_of:
        raise DataError(f"{where}: no annotation for this image; add one or remove the image")
    annotation = annotation_of[image_id]
    segments = tuple(
        _sound_segment(info, categories) or _parse_segment(info, categories, where)
        for info in _field(annotation, "segments_info", list, where)
    )
    _refuse_duplicates((segment.segment_id for segment in segments), "segment id", where)
    return PanopticImage(
        image_id=image_id,
        file_name=_field(row, "file_name", str, where),
        panoptic_file_name=_field(annotation, "file_name", str, where),
        height=height,
        width=width,
        segments=segments,
    )


def _sound_segment(row: Any, categories: CategorySet) -> Segment | None:
    """What `_parse_segment` gives where all is as usual, in less time; None where it has to be asked."""
    try:
        segment_id, category_id, area_px, bbox = row["id"], row["category_id"], row["area"], row["bbox"]
        x, y, width, height = bbox
        is_crowd = json_flag(row["iscrowd"])
    except (KeyError, TypeError, ValueError):
        return None
    for value in (segment_id, category_id, area_px, x, y, width, height):
        if type(value) is not int:
            return None
    if type(bbox) is not list or not VOID_SEGMENT_ID < segment_id <= MAX_SEGMENT_ID or category_id not in categories:
        return None
    return Segment(segment_id, category_id, area_px, (x, y, width, height), is_crowd)


def _parse_segment(row: Any, categories: CategorySet, where: str) -> Segment:
    segment_id = _field(row, "id", int, f"{where}: a segment")
    where = f"{where}: segment {segment_id}"
    if not VOID_SEGMENT_ID < segment_id <= MAX_SEGMENT_ID:
        raise DataError(f"{where}: expected an id from 1 to {MAX_SEGMENT_ID} (0 is void); renumber it, PNG and JSON")
    category_id = _field(row, "category_id", int, where)
    if category_id not in categories:
        raise DataError(f"{where}: unknown category {category_id}; `categories` does not list it")
    bbox = _field(row, "bbox", list, where)
    try:
        x, y, width, height = map(int, bbox)
        return Segment(segment_id, category_id, int(row["area"]), (x, y, width, height), json_flag(row["iscrowd"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: expected area, bbox [x, y, width, height] and iscrowd (0 or 1), got {row}"
        ) from error


def _field(row: Any, key: str, kind: type, where: str) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    if type(value) is not kind:
        raise DataError(f"{where}: expected {key!r} to be of type {kind.__name__}, got {value!r}")
    return value


def _refuse_duplicates(values: Iterable[Any], what: str, where: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise DataError(f"{where}: {what} {value!r} appears twice; every one must be unique")
        seen.add(value)


def _missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    names_in: defaultdict[Path, list[str]] = defaultdict(list)
    for name in names:
        names_in[(folder / name).parent].append(name)
    return sorted(name for parent, wanted in names_in.items() for name in _not_listed(parent, wanted))


def _not_listed(folder: Path, names: Iterable[str]) -> Iterator[str]:
    listed = set(os.listdir(folder)) if folder.is_dir() else set()
    return (name for name in names if os.path.basename(name) not in listed)


def _decode_segment_ids(png: bytes) -> np.ndarray:
    """Raises ValueError on anything but a whole 8-bit RGB PNG; OpenCV returns nothing for a truncated one."""
    bgr = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if bgr is None:
        raise ValueError("truncated, corrupt or no PNG")
    if bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != np.uint8:
        channels = bgr.shape[2] if bgr.ndim == 3 else 1
        raise ValueError(f"8-bit RGB expected (ids are R + 256 G + 256² B), got {channels} channels of {bgr.dtype}")
    return _pack(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA))


def _count_pixels(segment_ids: np.ndarray, ascending_ids: list[int]) -> list[int]:
    """The pixels of each of these segments, counted over runs; every other pixel is void."""
    flat = segment_ids.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    positions = np.searchsorted([VOID_SEGMENT_ID, *ascending_ids], flat[starts])
    lengths = np.diff(starts, append=flat.size)
    areas: list[int] = np.bincount(positions, lengths, minlength=1 + len(ascending_ids)).astype(np.int64).tolist()
    return areas[1:]


def _pack(rgba: np.ndarray) -> np.ndarray:
    """Each pixel as one little-endian integer without its alpha: five times as fast as arithmetic on the planes."""
    return rgba.view("<i4")[..., 0] & MAX_SEGMENT_ID


def _unpack(segment_ids: np.ndarray) -> np.ndarray:
    if segment_ids.size and not 0 <= segment_ids.min() <= segment_ids.max() <= MAX_SEGMENT_ID:
        raise ValueError(f"segment ids go from {segment_ids.min()} to {segment_ids.max()}; 0 to {MAX_SEGMENT_ID} fit")
    return np.ascontiguousarray(segment_ids, dtype="<i4").view(np.uint8).reshape(*segment_ids.shape, 4)
