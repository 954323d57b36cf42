"""Stage `fuse`: the panoptic maps of the val split by every system, of one end alone or of all ends together."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antvisionps.arrow import Labels, numbers_to_arrow
from antvisionps.atomic import atomic_folder
from antvisionps.coco_panoptic import PanopticImage, write_panoptic_json
from antvisionps.datasets.splits import dataset_fingerprint, open_split
from antvisionps.fusion.fallen import NO_NUMBER, FallenCandidates
from antvisionps.fusion.fused_files import (
    CANDIDATES_FILE,
    CANDIDATES_SCHEMA,
    PANOPTIC_FILE,
    PANOPTIC_FOLDER,
    SEGMENTS_FILE,
    SEGMENTS_SCHEMA,
)
from antvisionps.fusion.heuristic import FusedSegment, to_segments
from antvisionps.fusion.system import FusionSettings, fuse_predictions, load_kernels
from antvisionps.garbage import keep_until_exit
from antvisionps.parallel import Workers, map_images, open_workers
from antvisionps.params import FUSION_SYSTEM, load_params
from antvisionps.png import encode_runs, load_png_kernels
from antvisionps.predictions.ends import SplitCaches
from antvisionps.predictions.instances import InstancesReader
from antvisionps.predictions.semantic import SemanticReader
from antvisionps.segment_runs import RUNS_FILE, SegmentRuns, write_runs
from antvisionps.stage import run_stage
from antvisionps.systems import fused_settings

IMAGES_PER_ROW_GROUP = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--system", help=f"only this one, {FUSION_SYSTEM} or an end (default: all of fuse.systems)")
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, help=f"what stage evaluate_heldout wrote; only for {FUSION_SYSTEM}")
    parser.add_argument(
        "--calibration", type=Path, help="what stage calibrate wrote; for fuse.calibrated and fuse.order: learned"
    )
    out_help = "folder to write, replaced whole: with a folder for each system, or that of --system alone"
    parser.add_argument("--out", type=Path, required=True, help=out_help)
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    dataset = open_split(arguments.prepared, "val")
    settings = {}
    for system in params.fuse.systems if arguments.system is None else [arguments.system]:
        params.refuse_unknown_system(system)
        settings[system] = fused_settings(
            system,
            ends=params.all_ends,
            categories=dataset.categories,
            routing_dir=arguments.routing,
            calibration_dir=arguments.calibration,
            **params.fuse.keyword_arguments(system),
        )
    with open_workers(**params.runtime.worker_arguments()) as workers, atomic_folder(arguments.out) as folder:
        fuse(
            {system: folder / system if arguments.system is None else folder for system in settings},
            settings=settings,
            caches=SplitCaches(arguments.predictions, "val", dataset_fingerprint(arguments.prepared), dataset),
            workers=workers,
        )


def fuse(
    folders: Mapping[str, Path], *, settings: Mapping[str, FusionSettings], caches: SplitCaches, workers: Workers
) -> None:
    """Writes the maps of each system to its folder, all in one pass over the caches."""
    dataset = caches.dataset
    # Before there are several processes.
    load_kernels()
    load_png_kernels()
    for folder in folders.values():
        (folder / PANOPTIC_FOLDER).mkdir(parents=True)
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


@dataclass(frozen=True)
class _Written:
    """What is told of an image whose map is written."""

    segments: tuple[FusedSegment, ...]
    fallen: FallenCandidates
    runs: SegmentRuns


def _file_name(image: PanopticImage) -> str:
    return f"{image.image_id:012d}.png"


def _open_fusing(
    folders: Mapping[str, Path], settings: Mapping[str, FusionSettings], caches: SplitCaches
) -> Callable[[int], dict[str, _Written]]:
    cv2.setNumThreads(1)  # the processes are the parallelism
    mask_probs = any(of_system.needs_mask_probs for of_system in settings.values())
    instances: dict[str, InstancesReader] = {}
    semantics: dict[str, SemanticReader] = {}
    for of_system in settings.values():  # each has to find what it needs
        weight_of_end = of_system.weight_of_end
        instances |= caches.open_instances(list(weight_of_end), mask_probs=mask_probs)
        semantics |= caches.open_semantics([end for end, weight in weight_of_end.items() if weight > 0])

    def fuse_and_write(index: int) -> dict[str, _Written]:
        image = caches.dataset.images[index]
        found = {end: reader.read(image.image_id) for end, reader in instances.items()}
        planes = {end: reader.read(image.image_id) for end, reader in semantics.items()}
        written = {}
        for system, of_system in settings.items():
            weights = of_system.weight_of_end
            fused = fuse_predictions(
                {end: of_end for end, of_end in found.items() if end in weights},
                {end: of_end for end, of_end in planes.items() if weights.get(end, 0) > 0},
                categories=caches.dataset.categories,
                settings=of_system,
            )
            png = encode_runs(fused.runs.lengths, fused.runs.segments, width=image.width)
            (folders[system] / PANOPTIC_FOLDER / _file_name(image)).write_bytes(png)
            written[system] = _Written(fused.segments, fused.fallen, fused.runs)
        return written

    return fuse_and_write


class _SystemWriter:
    """Writes what is told of each image of one system, but for its map."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self.images: list[PanopticImage] = []
        self._write_segments = files.enter_context(
            _table_writer(folder / SEGMENTS_FILE, SEGMENTS_SCHEMA, _segment_columns)
        )
        self._write_fallen = files.enter_context(
            _table_writer(folder / CANDIDATES_FILE, CANDIDATES_SCHEMA, _fallen_columns)
        )
        self._write_runs = files.enter_context(write_runs(folder / RUNS_FILE))

    def write(self, image: PanopticImage, written: _Written) -> None:
        segments = to_segments(written.segments)
        self.images.append(replace(image, panoptic_file_name=_file_name(image), segments=segments))
        self._write_runs(written.runs)
        self._write_segments(image.image_id, written.segments)
        self._write_fallen(image.image_id, written.fallen)


def _segment_columns(images: Sequence[Sequence[FusedSegment]]) -> list[pa.Array]:
    """The columns of SEGMENTS_SCHEMA but for the image's id."""
    segments = list(chain.from_iterable(images))
    numbers = [[s.segment_id, s.category_id, s.area_px] for s in segments]
    scores = np.array([np.nan if s.score is None else s.score for s in segments], dtype=np.float32)
    return [
        *map(numbers_to_arrow, np.array(numbers, dtype=np.int32).reshape(-1, 3).T),
        numbers_to_arrow(scores, is_missing=np.isnan(scores)),
        Labels.of(s.end for s in segments).to_arrow(),
    ]


def _fallen_columns(images: Sequence[FallenCandidates]) -> list[pa.Array]:
    """The columns of CANDIDATES_SCHEMA but for the image's id."""
    category_ids, areas_px, free_px, scores, instances = (
        np.concatenate([getattr(fallen, name) for fallen in images])
        for name in ("category_ids", "areas_px", "free_px", "scores", "instances")
    )
    return [
        numbers_to_arrow(category_ids),
        numbers_to_arrow(areas_px),
        numbers_to_arrow(free_px, is_missing=free_px == NO_NUMBER),
        numbers_to_arrow(scores, is_missing=np.isnan(scores)),
        Labels.join([fallen.ends for fallen in images]).to_arrow(),
        Labels.join([fallen.reasons for fallen in images]).to_arrow(),
        numbers_to_arrow(instances, is_missing=instances == NO_NUMBER),
    ]


Rows = TypeVar("Rows", bound=Sized)


@contextmanager
def _table_writer(
    path: Path, schema: pa.Schema, to_columns: Callable[[list[Rows]], list[pa.Array]]
) -> Iterator[Callable[[int, Rows], None]]:
    """Yields what appends the rows of an image to a Parquet file, in row groups of IMAGES_PER_ROW_GROUP images."""
    labels = pa.dictionary(pa.int16(), pa.string())
    written = pa.schema([field.with_type(labels) if field.type == pa.string() else field for field in schema])
    image_ids: list[int] = []
    pending: list[Rows] = []

    def flush() -> None:
        of_row = np.repeat(np.array(image_ids, dtype=np.int64), [len(rows) for rows in pending])
        writer.write_table(pa.table([numbers_to_arrow(of_row), *to_columns(pending)], schema=written))
        image_ids.clear()
        pending.clear()

    def write(image_id: int, rows: Rows) -> None:
        image_ids.append(image_id)
        pending.append(rows)
        if len(pending) == IMAGES_PER_ROW_GROUP:
            flush()

    # Without Arrow's own schema beside Parquet's, labels are read as the texts that they are.
    options: dict[str, Any] = {"compression": "zstd", "write_statistics": ["image_id"], "store_schema": False}
    with pq.ParquetWriter(path, written, **options) as writer:
        yield write
        if pending:
            flush()


if __name__ == "__main__":
    run_stage(main)
    keep_until_exit()
