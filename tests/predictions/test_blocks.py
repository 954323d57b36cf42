"""Blocks of a cache, merged into the file of one go."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from antvisionps.core.errors import CacheError
from antvisionps.predictions.blocks import is_whole, merge_blocks
from antvisionps.predictions.instances import ImageInstances, InstancesReader, InstancesWriter
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


KINDS = [(InstancesWriter, InstancesReader, instances), (SemanticWriter, SemanticReader, semantics)]


def write(writer, make, image_ids) -> Path:
    with writer:
        for image_id in image_ids:
            writer.write(make(image_id))
    return writer.path


def write_blocks(path: Path, writer_of, make, size: int) -> dict[Path, list[int]]:
    """Of so many images each."""
    blocks = {}
    for first in range(0, len(IMAGE_IDS), size):
        image_ids = IMAGE_IDS[first : first + size]
        blocks[write(writer_of(path.with_name(f"block-{len(blocks)}"), HEADER), make, image_ids)] = list(image_ids)
    return blocks


@pytest.mark.parametrize("size", [1, 8, 40, 75])
@pytest.mark.parametrize(("writer_of", "reader", "make"), KINDS)
def test_merged_blocks_are_the_file_of_one_go_to_the_last_byte(tmp_path, size, writer_of, reader, make):
    whole = write(writer_of(tmp_path / "one" / "cache.parquet", HEADER), make, IMAGE_IDS).read_bytes()
    path = tmp_path / "many" / "cache.parquet"
    blocks = write_blocks(path, writer_of, make, size)
    with writer_of(path, HEADER) as writer:
        merge_blocks(blocks, reader, writer)
    assert path.read_bytes() == whole


SPOILT = [
    (lambda block: block.write_bytes(block.read_bytes()[:3000]), r"block-1: not a whole Parquet .*run `dvc repro`"),
    (lambda block: write(SemanticWriter(block, HEADER), semantics, [41]), "block-1: image 42 is missing"),
    (Path.unlink, "block-1: no such block; all processes have to see the same disk"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_block_that_is_damaged_or_missing_leaves_no_file(tmp_path, spoil, message):
    path = tmp_path / "cache.parquet"
    blocks = write_blocks(path, SemanticWriter, semantics, 40)
    spoil([*blocks][1])
    with pytest.raises(CacheError, match=message), SemanticWriter(path, HEADER) as writer:
        merge_blocks(blocks, SemanticReader, writer)
    assert not path.exists()


def flip_a_bit(block: Path) -> None:
    """Of the planes."""
    content = bytearray(block.read_bytes())
    content[len(content) // 8] ^= 1
    block.write_bytes(content)


@pytest.mark.parametrize("spoil", [*(spoil for spoil, _ in SPOILT), flip_a_bit])
def test_a_block_is_whole_with_its_images_alone(tmp_path, spoil):
    blocks = write_blocks(tmp_path / "cache.parquet", SemanticWriter, semantics, 40)
    (first, image_ids), _ = blocks.items()
    assert is_whole(first, SemanticReader, header=HEADER, image_ids=image_ids)
    assert not is_whole(first, SemanticReader, header=HEADER, image_ids=image_ids[1:])
    assert not is_whole(first, SemanticReader, header=replace(HEADER, split="heldout"), image_ids=image_ids)
    spoil(first)
    assert not is_whole(first, SemanticReader, header=HEADER, image_ids=image_ids)
