"""Segment maps as run lengths in a Parquet file: what PQ is counted on.

A map has fifty times fewer runs than pixels, and overlaps can be counted on them, so a map that is scored again and
again is decoded from its PNG once. The file has one row a run, in raster order, image behind image: `length` in pixels
and `segment`, 0 for void and n for the n-th of the image's segments in ascending segment id. Which images, of which
size and with which segments, its COCO panoptic JSON tells.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from antvisionps.core.atomic import atomic_file
from antvisionps.core.errors import DataError
from antvisionps.core.parquet_files import ParquetReader, write_groups
from antvisionps.panoptic.segments import PanopticImage, Segment, run_lengths

RUNS_FILE = "runs.parquet"
SCHEMA_VERSION = "1"
IMAGES_PER_GROUP = 32
"""Images of a row group, and so of a batch that is scored at once: enough to make numpy's calls few, few enough for
their arrays to stay in the processor's cache."""

_VERSION_KEY = "antvisionps.runs_version"
_SCHEMA = pa.schema(
    [pa.field("length", pa.int32(), nullable=False), pa.field("segment", pa.int32(), nullable=False)],
    metadata={_VERSION_KEY: SCHEMA_VERSION},
)


@dataclass(frozen=True, eq=False)
class SegmentRuns:
    """The maps of some images: lengths (R,) int32 in pixels, segment_indices (R,) int32, column `segment` of the file;
    image i owns runs first_run[i]:first_run[i + 1]."""

    lengths: np.ndarray
    segment_indices: np.ndarray
    first_run: np.ndarray


def find_runs(segment_ids: np.ndarray, segments: Sequence[Segment]) -> SegmentRuns:
    """The runs of one (H, W) map, whose ids are void or listed."""
    return index_runs(*run_lengths(segment_ids), [segment.segment_id for segment in segments])


def index_runs(lengths: np.ndarray, ids: np.ndarray, listed: Iterable[int]) -> SegmentRuns:
    """The runs of one map from what `run_lengths` finds; ids are listed or, below all that are, void."""
    indices = np.searchsorted(sorted(listed), ids, side="right").astype(np.int32)
    return SegmentRuns(lengths.astype(np.int32), indices, np.array([0, len(lengths)]))


def segment_areas_px(runs: SegmentRuns, listed: Iterable[int]) -> dict[int, int]:
    """Segment id → its pixels in the one map of `runs`, whose listed segments these are."""
    ordered = sorted(listed)
    areas_px = np.bincount(runs.segment_indices, runs.lengths, minlength=1 + len(ordered)).astype(np.int64)
    return dict(zip(ordered, areas_px[1:].tolist(), strict=True))


def join_runs(maps: Sequence[SegmentRuns]) -> SegmentRuns:
    """The runs of several images, in their order."""
    lengths, indices = (np.concatenate([getattr(one, name) for one in maps]) for name in ("lengths", "segment_indices"))
    return SegmentRuns(lengths, indices, np.cumsum([0, *(len(one.lengths) for one in maps)]))


@contextmanager
def write_runs(path: Path) -> Iterator[Callable[[SegmentRuns], None]]:
    """Yields what appends the map of one image; images in the order of the JSON, ascending id."""

    def to_columns(maps: Sequence[SegmentRuns]) -> list[np.ndarray]:
        joined = join_runs(maps)
        return [joined.lengths, joined.segment_indices]

    # Small numbers in 32 bits: split into bytes, LZ4 makes them smaller than zstd does as they are, and four times as
    # fast.
    plain = {"use_byte_stream_split": True, "use_dictionary": False, "write_statistics": False}
    with (
        atomic_file(path) as unfinished,
        write_groups(unfinished, _SCHEMA, to_columns, size=IMAGES_PER_GROUP, compression="lz4", **plain) as write,
    ):
        yield write


class SegmentRunsReader:
    """The maps of a split's images, IMAGES_PER_GROUP at a time. `remedy` is what writes the file again.

    Raises DataError, when opened or when a group is read, on a file that is missing, damaged, of another version, or of
    other images and segments than `images`.
    """

    def __init__(self, path: Path, images: Sequence[PanopticImage], *, remedy: str) -> None:
        self.path = path
        self._images = images
        self._remedy = remedy
        version = (_VERSION_KEY, SCHEMA_VERSION)
        self._parquet = ParquetReader(path, _SCHEMA, remedy=remedy, error=DataError, version=version)
        groups = -(-len(images) // IMAGES_PER_GROUP)
        if len(self) != groups:
            raise DataError(f"{path}: expected {groups} row groups for {len(images)} images, got {len(self)}; {remedy}")

    def __len__(self) -> int:
        return len(self._parquet.rows_of_group)

    def read(self, group: int) -> SegmentRuns:
        table = self._parquet.read_group(group)
        lengths, indices = (np.from_dlpack(column.combine_chunks()) for column in table.columns)
        images = images_of_group(self._images, group)
        first_run = self._first_runs(lengths, images)
        self._check_segments(lengths, indices, first_run, images)
        return SegmentRuns(lengths, indices, first_run)

    def _first_runs(self, lengths: np.ndarray, images: Sequence[PanopticImage]) -> np.ndarray:
        """(images + 1,) the run at which each image begins, and their number."""
        begins = np.append(0, np.cumsum([image.height * image.width for image in images]))
        run_begins = np.append(0, np.cumsum(lengths, dtype=np.int64))
        first_run = np.searchsorted(run_begins, begins)
        if run_begins[-1] != begins[-1] or (lengths < 1).any() or (run_begins[first_run] != begins).any():
            raise DataError(
                f"{self.path}: the runs of images {images[0].source_id} to {images[-1].source_id} are of other sizes; "
                f"{self._remedy}"
            )
        return first_run

    def _check_segments(
        self, lengths: np.ndarray, indices: np.ndarray, first_run: np.ndarray, images: Sequence[PanopticImage]
    ) -> None:
        """Every run is void or of a segment that the image lists, and every segment listed has its pixels."""
        sizes = np.array([1 + len(image.segments) for image in images])
        first = np.cumsum(sizes) - sizes
        lowest, highest = (reduce(indices, first_run[:-1]) for reduce in (np.minimum.reduceat, np.maximum.reduceat))
        wrong = (lowest < 0) | (highest >= sizes)
        if not wrong.any():
            places = np.repeat(first, np.diff(first_run)) + indices
            areas_px = np.bincount(places, weights=lengths, minlength=sizes.sum())
            is_listed = (areas_px == [area_px for image in images for area_px in _areas_px(image)]) & (areas_px > 0)
            is_listed[first] = True  # void, of whatever area
            wrong = ~np.logical_and.reduceat(is_listed, first)
        if wrong.any():
            raise DataError(
                f"{self.path}: the runs of image {images[int(np.argmax(wrong))].source_id} are of other segments than "
                f"its annotation lists; {self._remedy}"
            )


def _areas_px(image: PanopticImage) -> list[int]:
    """Of void, given as 0, and of the segments in ascending id."""
    ordered = sorted((segment.segment_id, segment.area_px) for segment in image.segments)
    return [0, *(area_px for _, area_px in ordered)]


def images_of_group(images: Sequence[PanopticImage], group: int) -> Sequence[PanopticImage]:
    """The images of one row group."""
    return images[group * IMAGES_PER_GROUP : (group + 1) * IMAGES_PER_GROUP]
