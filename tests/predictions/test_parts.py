"""Parts of a cache that several processes write, merged into the file of one."""

from pathlib import Path

import numpy as np
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
from antvisionps.predictions.parts import merge_parts, part_path
from antvisionps.predictions.schema import CacheHeader
from antvisionps.predictions.semantic import ImageSemantics, SemanticReader, SemanticWriter
from tests.drawing import category_set, found

CATEGORIES = category_set({5: "box"}, {2: "ground"})
HEADER = CacheHeader("e_ups", "val", "0" * 64, CATEGORIES, "1" * 64)
IMAGE_IDS = range(1, 76)
"""More than two row groups."""


def instances(image_id: int) -> ImageInstances:
    """Every third image has none; the others have one or two."""
    count = image_id % 3
    rng = np.random.default_rng(image_id)
    return found(
        *((5, rng.random(), rng.random((6, 7)) < 0.5) for _ in range(count)),
        hw=(6, 7),
        image_id=image_id,
        mask_probs=rng.integers(0, 256, (count, 28, 28)).astype(np.uint8),
    )


def semantics(image_id: int) -> ImageSemantics:
    planes = np.random.default_rng(image_id).integers(0, 256, (2, 3, 4)).astype(np.uint8)
    sizes = {"height": 6, "width": 7, "input_height": 6, "input_width": 8, "stride": 2.0}
    return ImageSemantics(image_id=image_id, category_ids=np.array([2, 5], dtype=np.int32), planes=planes, **sizes)


def write(writer, make, image_ids) -> Path:
    with writer:
        for image_id in image_ids:
            writer.write(make(image_id))
    return writer.path


def write_parts(path: Path, writer_of, make, processes: int) -> list[Path]:
    parts = [part_path(path, rank) for rank in range(processes)]
    return [write(writer_of(part, HEADER), make, IMAGE_IDS[rank::processes]) for rank, part in enumerate(parts)]


@pytest.mark.parametrize("processes", [1, 2, 3, 80])
@pytest.mark.parametrize(
    ("writer_of", "reader", "make"),
    [(InstancesWriter, InstancesReader, instances), (SemanticWriter, SemanticReader, semantics)],
)
def test_merged_parts_are_the_file_of_one_process_to_the_last_byte(tmp_path, processes, writer_of, reader, make):
    whole = write(writer_of(tmp_path / "one" / "cache.parquet", HEADER), make, IMAGE_IDS).read_bytes()
    path = tmp_path / "many" / "cache.parquet"
    parts = write_parts(path, writer_of, make, processes)
    with writer_of(path, HEADER) as writer:
        merge_parts(parts, reader, writer, IMAGE_IDS)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda part: part.write_bytes(part.read_bytes()[:3000]), r"part-1: not a whole Parquet .*run `dvc repro`"),
        (lambda part: write(SemanticWriter(part, HEADER), semantics, [2]), "part-1: image 4 is missing"),
        (Path.unlink, "part-1: no such part; all processes have to see the same disk"),
    ],
)
def test_a_part_that_is_damaged_or_missing_leaves_no_file(tmp_path, spoil, message):
    path = tmp_path / "cache.parquet"
    parts = write_parts(path, SemanticWriter, semantics, 2)
    spoil(parts[1])
    with pytest.raises(CacheError, match=message), SemanticWriter(path, HEADER) as writer:
        merge_parts(parts, SemanticReader, writer, IMAGE_IDS)
    assert not path.exists()
