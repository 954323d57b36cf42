"""Parts of a cache that several processes write, merged into the file of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.rle import encode_masks
from antvisionps.predictions.cache_file import CacheWriter, ImageRows
from antvisionps.predictions.instances import ImageInstances, InstancesWriter, instance_rows
from antvisionps.predictions.parts import PartWriter, merge_parts, part_path, remove_parts
from antvisionps.predictions.schema import INSTANCES_SCHEMA, SEMANTIC_SCHEMA, CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticWriter, semantic_rows

CATEGORIES = CategorySet.from_json(
    [{"id": 2, "name": "ground", "isthing": 0}, {"id": 5, "name": "box", "isthing": 1}], where="test"
)
HEADER = CacheHeader("e_ups", "val", "0" * 64, CATEGORIES, "1" * 64)
NUM_IMAGES = 75
"""More than two row groups."""


def instances(image_id: int) -> ImageRows:
    """Every third image has none; the others have one or two."""
    count = image_id % 3
    rng = np.random.default_rng(image_id)
    return instance_rows(
        ImageInstances(
            image_id=image_id,
            height=6,
            width=7,
            category_ids=np.full(count, 5, dtype=np.int32),
            scores=rng.random(count).astype(np.float32),
            boxes_xywh=rng.random((count, 4)).astype(np.float32),
            rles=encode_masks(rng.random((count, 6, 7)) < 0.5),
            mask_probs=rng.integers(0, 256, (count, 28, 28)).astype(np.uint8),
        ),
        CATEGORIES,
    )


def semantics(image_id: int) -> ImageRows:
    planes = np.random.default_rng(image_id).integers(0, 256, (2, 3, 4)).astype(np.uint8)
    sizes = {"height": 6, "width": 7, "input_height": 6, "input_width": 8, "stride": 2.0}
    ids = np.array([2, 5], dtype=np.int32)
    return semantic_rows(ImageSemantics(image_id=image_id, category_ids=ids, planes=planes, **sizes), CATEGORIES)


def write_parts(path: Path, schema, rows_of, processes: int) -> list[Path]:
    parts = [part_path(path, rank) for rank in range(processes)]
    for rank, part in enumerate(parts):
        with PartWriter(part, schema) as writer:
            for image_id in range(1, NUM_IMAGES + 1)[rank::processes]:
                writer.append(rows_of(image_id))
    return parts


def write_whole(writer: CacheWriter, rows_of) -> bytes:
    with writer:
        for image_id in range(1, NUM_IMAGES + 1):
            writer.append(rows_of(image_id))
    return writer.path.read_bytes()


@pytest.mark.parametrize("processes", [1, 2, 3, 80])
@pytest.mark.parametrize(
    ("writer_of", "schema", "rows_of"),
    [(InstancesWriter, INSTANCES_SCHEMA, instances), (SemanticWriter, SEMANTIC_SCHEMA, semantics)],
)
def test_merged_parts_are_the_file_of_one_process_to_the_last_byte(tmp_path, processes, writer_of, schema, rows_of):
    whole = write_whole(writer_of(tmp_path / "one" / "cache.parquet", HEADER), rows_of)
    path = tmp_path / "many" / "cache.parquet"
    parts = write_parts(path, schema, rows_of, processes)
    with writer_of(path, HEADER) as writer:
        merge_parts(parts, writer, num_images=NUM_IMAGES)
    assert path.read_bytes() == whole
    remove_parts(path)
    assert [file.name for file in path.parent.iterdir()] == ["cache.parquet"]


def test_an_error_leaves_neither_the_part_nor_the_file(tmp_path):
    def ends_with_an_error() -> None:
        with PartWriter(tmp_path / "part", SEMANTIC_SCHEMA) as part:
            part.append(semantics(1))
            raise KeyError

    with pytest.raises(KeyError):
        ends_with_an_error()
    path = tmp_path / "cache.parquet"
    parts = write_parts(path, SEMANTIC_SCHEMA, semantics, 2)
    parts[1].write_bytes(parts[1].read_bytes()[:3000])
    with (
        pytest.raises(CacheError, match=r"part-1: (a damaged part|expected image number \d+ of 75)"),
        SemanticWriter(path, HEADER) as writer,
    ):
        merge_parts(parts, writer, num_images=NUM_IMAGES)
    remove_parts(path)
    assert not list(tmp_path.iterdir())


def test_a_part_that_another_machine_kept_to_itself_is_missed(tmp_path):
    path = tmp_path / "cache.parquet"
    parts = write_parts(path, SEMANTIC_SCHEMA, semantics, 2)
    parts[1].unlink()
    with (
        pytest.raises(CacheError, match=r"part-1: expected image number 1 of 75, .* the same disk"),
        SemanticWriter(path, HEADER) as writer,
    ):
        merge_parts(parts, writer, num_images=NUM_IMAGES)
