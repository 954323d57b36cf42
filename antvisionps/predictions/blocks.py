"""A cache file that is predicted in blocks of images, which are then merged into the file of one go.

Each block is a cache file by itself. So several processes can share a split, and an interruption costs no more than the
blocks that were being predicted.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from antvisionps.core.errors import CacheError
from antvisionps.predictions.cache_file import CachedImage, CacheReader, CacheWriter
from antvisionps.predictions.schema import REMEDY, CacheHeader

Image = TypeVar("Image", bound=CachedImage)

OpenBlock = Callable[[Path, CacheHeader], CacheReader[Image]]
"""The class of its reader."""


def is_whole(block: Path, open_block: OpenBlock[Image], *, header: CacheHeader, image_ids: Sequence[int]) -> bool:
    """Whether the file is there and holds these images, all of them readable."""
    try:
        with open_block(block, header) as images:
            return [image.image_id for image in images] == list(image_ids)
    except CacheError:
        return False


def merge_blocks(
    blocks: Mapping[Path, Sequence[int]], open_block: OpenBlock[Image], writer: CacheWriter[Image]
) -> None:
    """Writes to an open writer what the blocks hold: file → its image ids, in ascending order throughout.

    The bytes are those of one go. Raises CacheError where a block or an image is missing or damaged.
    """
    for block, image_ids in blocks.items():
        if not block.exists():
            raise CacheError(f"{block}: no such block; all processes have to see the same disk; {REMEDY}")
        with open_block(block, writer.header) as images:
            for image_id in image_ids:
                writer.write(images.read(image_id))
