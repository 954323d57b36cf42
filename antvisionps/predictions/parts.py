"""A cache file that several processes predict: each writes a part, and the first merges them into the file of one."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from antvisionps.core.errors import CacheError
from antvisionps.predictions.cache_file import CachedImage, CacheReader, CacheWriter
from antvisionps.predictions.schema import REMEDY, CacheHeader

Image = TypeVar("Image", bound=CachedImage)


def part_path(path: Path, rank: int) -> Path:
    """Where process `rank` writes its part of the cache file `path`, a cache of some of the images."""
    return path.with_name(f".{path.name}.part-{rank}")


def merge_parts(
    parts: Sequence[Path],
    open_part: Callable[[Path, CacheHeader], CacheReader[Image]],
    writer: CacheWriter[Image],
    image_ids: Sequence[int],
) -> None:
    """Writes to an open writer what the parts hold: image k of the file is in part k modulo their number.

    The bytes are those of one process. `open_part` is the reader's class. Raises CacheError where a part or an image is
    missing or damaged.
    """
    for part in parts:
        if not part.exists():
            raise CacheError(f"{part}: no such part; all processes have to see the same disk; {REMEDY}")
    with ExitStack() as opened:
        readers = [opened.enter_context(open_part(part, writer.header)) for part in parts]
        for number, image_id in enumerate(image_ids):
            writer.write(readers[number % len(readers)].read(image_id))
