"""What stage `fuse` does: the panoptic maps of the val split by every system, an end alone or all ends together."""

from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from antvisionps.core.atomic import atomic_folder
from antvisionps.core.parquet_files import write_groups
from antvisionps.fusion.heuristic import FusedImage, FusedSegment, coco_segments
from antvisionps.fusion.rejected import NO_NUMBER, RejectedCandidates
from antvisionps.fusion.system import FusionSettings, fuse_by_each, load_kernels
from antvisionps.panoptic.coco_json import write_panoptic_json
from antvisionps.panoptic.png import encode_segment_ids
from antvisionps.panoptic.segment_runs import RUNS_FILE, write_runs
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.parallel.images import Workers, map_images, open_workers
from antvisionps.params.whole import Params
from antvisionps.pipeline.ignored import describe_ignored
from antvisionps.pipeline.settings import system_settings
from antvisionps.pipeline.try_settings import PredictionsReader
from antvisionps.predictions.fused_files import CANDIDATES, DOUBT_FOLDER, PANOPTIC_FILE, PANOPTIC_FOLDER, SEGMENTS
from antvisionps.predictions.split_caches import SplitCaches

IMAGES_PER_ROW_GROUP = 1024

FILES_OF_SYSTEM = (
    *(PANOPTIC_FILE, PANOPTIC_FOLDER, DOUBT_FOLDER),
    *(SEGMENTS.file_name, CANDIDATES.file_name, RUNS_FILE),
)
"""What `fuse` writes of a system."""


def fuse_systems(
    params: Params, *, prepared: Path, predictions: Path, routing: Path, calibration: Path, out: Path
) -> None:
    """Writes the maps of each of fuse.systems to OUT/<system>, and prints which params it ignores."""
    caches = SplitCaches.open(predictions, prepared, "val", promised=params.promised_kinds())
    settings = {
        system: system_settings(
            system, params, categories=caches.dataset.categories, routing=routing, calibration=calibration
        )
        for system in params.fuse.systems
    }
    if ignored := describe_ignored(params, list(settings.values())):
        print(f"ignored: {ignored}", flush=True)
    with atomic_folder(out) as folder, open_workers(**params.runtime.worker_arguments()) as workers:
        fuse({system: folder / system for system in settings}, settings=settings, caches=caches, workers=workers)


def fuse(
    folders: Mapping[str, Path], *, settings: Mapping[str, FusionSettings], caches: SplitCaches, workers: Workers
) -> None:
    """Writes the maps of each system to its folder, all in one pass over the caches."""
    dataset = caches.dataset
    load_kernels()
    for system, folder in folders.items():
        (folder / PANOPTIC_FOLDER).mkdir(parents=True)
        if settings[system].with_doubt:
            (folder / DOUBT_FOLDER).mkdir()
    open_work = partial(_open_fusing, folders, settings, caches)
    with ExitStack() as files:
        writers = {system: _SystemWriter(folder, files) for system, folder in folders.items()}
        indices = range(len(dataset.images))
        written = map_images(open_work, indices, workers=workers, description=f"fuse {', '.join(settings)}")
        for image, of_system in zip(dataset.images, written, strict=True):
            for system, writer in writers.items():
                writer.write(image, of_system[system])
    for system, folder in folders.items():
        write_panoptic_json(folder / PANOPTIC_FILE, categories=dataset.categories, images=writers[system].images)


def _file_name(image: PanopticImage) -> str:
    return f"{image.image_id:012d}.png"


def _open_fusing(
    folders: Mapping[str, Path], settings: Mapping[str, FusionSettings], caches: SplitCaches
) -> Callable[[int], dict[str, FusedImage]]:
    dataset = caches.dataset
    reader = PredictionsReader.open(caches, settings.values())

    def fuse_and_write(index: int) -> dict[str, FusedImage]:
        image = dataset.images[index]
        found, planes = reader.read(image.image_id)
        by_each = fuse_by_each(found, planes, categories=dataset.categories, settings=list(settings.values()))
        fused_by = dict(zip(settings, by_each, strict=True))
        for system, fused in fused_by.items():
            png = encode_segment_ids(fused.segment_ids)
            (folders[system] / PANOPTIC_FOLDER / _file_name(image)).write_bytes(png)
            if fused.doubt is not None:
                png = cv2.imencode(".png", np.rint(255 * fused.doubt).astype(np.uint8))[1].tobytes()
                (folders[system] / DOUBT_FOLDER / _file_name(image)).write_bytes(png)
        return {system: replace(fused, doubt=None) for system, fused in fused_by.items()}

    return fuse_and_write


class _SystemWriter:
    """Writes what is told of each image of one system, but for its map."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.images: list[PanopticImage] = []
        options: dict[str, Any] = {"compression": "zstd", "write_statistics": ["image_id"]}
        self._write_segments, self._write_rejected = (
            files.enter_context(
                write_groups(folder / table.file_name, table.schema, to_columns, size=IMAGES_PER_ROW_GROUP, **options)
            )
            for table, to_columns in ((SEGMENTS, _segment_columns), (CANDIDATES, _rejected_columns))
        )
        self._write_runs = files.enter_context(write_runs(folder / RUNS_FILE))

    def write(self, image: PanopticImage, fused: FusedImage) -> None:
        segments = coco_segments(fused.segments)
        self.images.append(replace(image, panoptic_file_name=_file_name(image), segments=segments))
        self._write_runs(fused.runs)
        self._write_segments((image.image_id, fused.segments))
        self._write_rejected((image.image_id, fused.rejected))


def _segment_columns(images: Sequence[tuple[int, Sequence[FusedSegment]]]) -> list[pa.Array]:
    """The columns of SEGMENTS, of images by their id."""
    segments = [segment for _, of_image in images for segment in of_image]
    _, *fields = SEGMENTS.schema
    columns = [pa.array([getattr(segment, field.name) for segment in segments], field.type) for field in fields]
    return [_ids_of_rows(images), *columns]


def _rejected_columns(images: Sequence[tuple[int, RejectedCandidates]]) -> list[pa.Array]:
    """The columns of CANDIDATES, of images by their id."""
    rejected = RejectedCandidates.join([of_image for _, of_image in images])
    return [
        _ids_of_rows(images),
        pa.array(rejected.category_ids),
        pa.array(rejected.areas_px),
        pa.array(rejected.free_px, mask=rejected.free_px == NO_NUMBER),
        pa.array(rejected.scores, mask=np.isnan(rejected.scores)),
        pa.array(rejected.ends, pa.string()),
        pa.array(rejected.reasons, pa.string()),
        pa.array(rejected.instances, mask=rejected.instances == NO_NUMBER),
    ]


def _ids_of_rows(images: Sequence[tuple[int, Sized]]) -> pa.Array:
    return pa.array(np.repeat([image_id for image_id, _ in images], [len(rows) for _, rows in images]), pa.int64())
