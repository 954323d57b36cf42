"""The segments of a panoptic map: what describes them, and how they are measured over the map's runs."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from antvisionps.panoptic.categories import VOID_CLASS_INDEX, VOID_SEGMENT_ID, CategorySet
from antvisionps.panoptic.ids import ImageId, number_ids

UNKNOWN_AREA_PX, UNKNOWN_BBOX_XYWH = -1, (-1, -1, -1, -1)
"""Of a segment whose JSON does not tell them, until `PanopticDataset.measure` takes them from the map."""


class Segment(NamedTuple):  # made in two thirds of the time of a frozen dataclass
    """One region of a panoptic map, as its JSON describes it."""

    segment_id: int
    category_id: int
    area_px: int
    bbox_xywh: tuple[int, int, int, int]
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class PanopticImage:
    """One photo and its panoptic map; file names are relative to the split's folders.

    `image_id` is its number within the split, `given_id` the data set's own id where that cannot be such a number.
    """

    image_id: int
    file_name: str
    panoptic_file_name: str
    height: int
    width: int
    segments: tuple[Segment, ...]
    given_id: ImageId | None = None

    @property
    def source_id(self) -> ImageId:
        """The data set's own id: what messages and files for others call the image."""
        return self.image_id if self.given_id is None else self.given_id


def number_images(images: Iterable[PanopticImage]) -> tuple[PanopticImage, ...]:
    """The images of a split in ascending image_id, which is what `number_ids` says."""
    image_of = {image.source_id: image for image in images}
    return tuple(
        image_of[source_id] if image_of[source_id].image_id == number else _numbered(image_of[source_id], number)
        for source_id, number in number_ids(image_of).items()
    )


def _numbered(image: PanopticImage, number: int) -> PanopticImage:
    return replace(image, image_id=number, given_id=None if image.source_id == number else image.source_id)


def given_ids(images: Sequence[PanopticImage]) -> tuple[ImageId, ...] | None:
    """The own ids of a split's images in its order, None where image_id is the own id of all."""
    if all(image.given_id is None for image in images):
        return None
    return tuple(image.source_id for image in images)


def class_index_map(segment_ids: np.ndarray, image: PanopticImage, categories: CategorySet) -> np.ndarray:
    """(H, W) uint8 class indices, VOID_CLASS_INDEX where void. A crowd's pixels have its class."""
    class_of_id = {segment.segment_id: categories.class_index(segment.category_id) for segment in image.segments}
    return map_ids(segment_ids, class_of_id, np.uint8, otherwise=VOID_CLASS_INDEX)


def map_ids(
    segment_ids: np.ndarray, value_of_id: Mapping[int, int], dtype: type[np.integer], *, otherwise: int
) -> np.ndarray:
    """(H, W) the value of each pixel's segment id, `otherwise` where the id has none."""
    listed, values = np.array([*sorted(value_of_id.items()), (-1, otherwise)]).T
    lengths, ids = run_lengths(segment_ids)
    place = np.searchsorted(listed[:-1], ids)
    of_run = np.where(listed[place] == ids, values[place], otherwise).astype(dtype)
    return np.repeat(of_run, lengths).reshape(segment_ids.shape)


def measure_segments(
    segment_ids: np.ndarray, *, category_ids: Mapping[int, int], crowd_ids: Set[int] = frozenset()
) -> tuple[Segment, ...]:
    """The segments of an (H, W) map with their areas and boxes, in ascending segment id; `category_ids` is keyed by
    segment id.

    Raises KeyError when the map holds an id that `category_ids` lacks.
    """
    return tuple(
        Segment(segment_id, category_ids[segment_id], area_px, bbox_xywh, segment_id in crowd_ids)
        for segment_id, area_px, bbox_xywh in measure_runs(*run_lengths(segment_ids), width=segment_ids.shape[1])
    )


def measure_runs(
    lengths: np.ndarray, ids: np.ndarray, *, width: int
) -> list[tuple[int, int, tuple[int, int, int, int]]]:
    """Id, pixels and bbox_xywh of each segment of a map but void, in ascending id, from its runs in raster order."""
    stops = np.cumsum(lengths, dtype=np.int64)
    top, left = np.divmod(stops - lengths, width)
    bottom, right = np.divmod(stops - 1, width)
    left[bottom > top], right[bottom > top] = 0, width - 1
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    first = run_starts(ids)
    area_px = np.add.reduceat(lengths[order], first)
    (left, top), (right, bottom) = (
        [reduce.reduceat(side[order], first) for side in sides]
        for reduce, sides in ((np.minimum, (left, top)), (np.maximum, (right, bottom)))
    )
    rows = np.stack([ids[first], area_px, left, top, right + 1 - left, bottom + 1 - top], axis=1).tolist()
    return [(segment_id, area, (x, y, w, h)) for segment_id, area, x, y, w, h in rows if segment_id != VOID_SEGMENT_ID]


def run_starts(*maps: np.ndarray) -> np.ndarray:
    """(R,) the flat index at which each run begins, in raster order, on which every map is constant.

    A map has fifty times fewer runs than pixels, so what is counted over runs costs little.
    """
    is_start = np.zeros(maps[0].size, dtype=bool)
    is_start[:1] = True
    for flat in (values.ravel() for values in maps):
        is_start[1:] |= flat[1:] != flat[:-1]
    return np.flatnonzero(is_start)


def run_lengths(segment_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) pixels and (R,) id of each run of an (H, W) map, in raster order."""
    starts = run_starts(segment_ids)
    return np.diff(starts, append=segment_ids.size), segment_ids.ravel()[starts]
