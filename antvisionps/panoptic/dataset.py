"""A split of a data set: its photos and panoptic maps, each checked against the annotation when it is loaded."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path

import numpy as np

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import read_file
from antvisionps.panoptic.categories import VOID_SEGMENT_ID, CategorySet
from antvisionps.panoptic.photo import SWAPS_SIDES, OtherSizeError, Photo, read_orientation, read_photo, untag_command
from antvisionps.panoptic.png import PngHeader, decode_segment_ids, read_header
from antvisionps.panoptic.segment_runs import SegmentRuns, find_runs
from antvisionps.panoptic.segments import UNKNOWN_AREA_PX, UNKNOWN_BBOX_XYWH, PanopticImage, measure_runs, run_lengths


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
        """(H, W, 3) uint8 RGB, upright by its EXIF orientation.

        Raises DataError when the file is missing, truncated or of another size than the annotation says.
        """
        return self.read_photo(image).rgb

    def read_photo(self, image: PanopticImage) -> Photo:
        """The same with its EXIF orientation."""
        path, hw = self.photo_path(image), (image.height, image.width)
        try:
            return read_photo(path, hw=hw)
        except OtherSizeError as error:
            raise self._other_size(path, image, error.upright_hw, _photo_remedy(path, hw, error)) from error
        except ValueError as error:
            raise self._unreadable(path, "photo", image, error) from error

    def load_segment_ids(self, image: PanopticImage) -> np.ndarray:
        """(H, W) int32 segment ids, 0 = void.

        Raises DataError when the PNG is missing, truncated, of a kind that holds no ids (png.py) or of another size
        than the annotation says, when a pixel's id is not among the image's segments, and when a segment has no pixel.
        """
        segment_ids, header = self._read_map(image)
        self._check_segments(image, run_lengths(segment_ids)[1], header)
        return segment_ids

    def load_runs(self, image: PanopticImage) -> tuple[SegmentRuns, PanopticImage]:
        """The map's runs, and the image with whole segments. Raises what `load_segment_ids` and `measure` do."""
        segment_ids = self.load_segment_ids(image)
        return find_runs(segment_ids, image.segments), self.measure(image, segment_ids)

    def _read_map(self, image: PanopticImage) -> tuple[np.ndarray, PngHeader]:
        path = self.panoptic_path(image)
        try:
            png = read_file(path)
            header = read_header(png)
            if header.hw != (image.height, image.width):
                raise self._other_size(path, image, header.hw, self._map_remedy(image, header.hw))
            return decode_segment_ids(png), header
        except (OSError, ValueError) as error:
            raise self._unreadable(path, "panoptic PNG", image, error) from error

    def measure(self, image: PanopticImage, segment_ids: np.ndarray) -> PanopticImage:
        """The image with whole segments: what its JSON leaves out is taken from its map. Raises DataError when a
        segment's area in the JSON is not its number of pixels: PQ's union counts with it."""
        found = measure_runs(*run_lengths(segment_ids), width=image.width)
        areas_px = {segment_id: area_px for segment_id, area_px, _ in found}
        self._refuse_other_areas(image, areas_px)
        box_of = {segment_id: bbox_xywh for segment_id, _, bbox_xywh in found}
        box_of |= {one.segment_id: one.bbox_xywh for one in image.segments if one.bbox_xywh != UNKNOWN_BBOX_XYWH}
        whole = (
            one._replace(area_px=areas_px[one.segment_id], bbox_xywh=box_of[one.segment_id]) for one in image.segments
        )
        return replace(image, segments=tuple(whole))

    def _refuse_other_areas(self, image: PanopticImage, areas_px: Mapping[int, int]) -> None:
        for segment in sorted(image.segments, key=attrgetter("segment_id")):
            got = areas_px[segment.segment_id]
            if segment.area_px not in (got, UNKNOWN_AREA_PX):
                raise DataError(
                    f"{self.annotations}: image {image.source_id}: segment {segment.segment_id}: expected as area its "
                    f"number of pixels in {self.panoptic_path(image)}, {got}, got {segment.area_px}; correct the area"
                )

    def _unreadable(self, path: Path, what: str, image: PanopticImage, error: Exception) -> DataError:
        reason = getattr(error, "strerror", None) or error
        return DataError(
            f"{path}: {what} of image {image.source_id} in {self.annotations} cannot be read whole ({reason}); "
            "put the right file there or remove the image"
        )

    def _other_size(self, path: Path, image: PanopticImage, got_hw: tuple[int, int], remedy: str) -> DataError:
        return DataError(
            f"{path}: expected {image.width}x{image.height} pixels (width x height of image {image.source_id} in "
            f"{self.annotations}), got {got_hw[1]}x{got_hw[0]}{remedy}"
        )

    def _map_remedy(self, image: PanopticImage, got_hw: tuple[int, int]) -> str:
        photo = self.photo_path(image)
        orientation = read_orientation(photo) if got_hw == (image.width, image.height) else None
        if orientation not in SWAPS_SIDES:
            return "; correct the JSON or replace the file"
        return (
            f"; the photo {photo} is turned upright by its EXIF orientation {orientation}: turn the map as well, or "
            f"remove the tag (`{untag_command(photo)}`) and correct height and width"
        )

    def _check_segments(self, image: PanopticImage, ids: np.ndarray, header: PngHeader) -> None:
        """`ids` are those of the map's runs."""
        present = {*np.unique(ids).tolist()} - {VOID_SEGMENT_ID}
        listed = set(_listed(image))
        if present == listed:
            return
        unlisted, absent = sorted(present - listed), sorted(listed - present)
        problem = (
            f"has pixels of segment {unlisted[0]}, which segments_info of image {image.source_id} does not list"
            if unlisted
            else f"has no pixel of segment {absent[0]}, which segments_info of image {image.source_id} lists"
        )
        more = len(unlisted or absent) - 1
        also = f" (and {more} more like it)" if more else ""
        kind = f" (the PNG is {header.meaning})" if header.meaning else ""
        raise DataError(
            f"{self.panoptic_path(image)}: {problem}{also}{kind}; it and {self.annotations} do not belong together, "
            "write both again"
        )


def _listed(image: PanopticImage) -> list[int]:
    return [segment.segment_id for segment in image.segments]


def _photo_remedy(path: Path, hw: tuple[int, int], error: OtherSizeError) -> str:
    """How a photo and its annotation come together; names the orientation under which they would."""
    if error.stored_hw == hw:
        return (
            f" turned upright by its EXIF orientation {error.orientation}, as viewers show it, of {hw[1]}x{hw[0]} "
            "stored pixels; turn the map upright and correct height and width, or remove the tag: "
            f"`{untag_command(path)}`"
        )
    if error.upright_hw == hw[::-1]:
        return (
            f" at EXIF orientation {error.orientation}; orientation 6 or 8 would fit: turn the photo, or turn the map "
            "and correct height and width"
        )
    return "; correct the JSON or replace the file"


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


def _missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    @cache
    def listed(parent: Path) -> set[str]:
        return set(os.listdir(parent)) if parent.is_dir() else set()

    paths = ((name, folder / name) for name in names)
    return sorted(name for name, path in paths if path.name not in listed(path.parent))
