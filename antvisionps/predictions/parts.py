"""Parts of a cache file, which several processes write side by side, and their merging into the file of one process.

A part is a stream of Arrow record batches, one an image, with the image's id and size in the batch's metadata: exactly
what a writer of the whole file would have been given. So merging copies, image by image, and the bytes are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from antvisionps.core.errors import CacheError
from antvisionps.predictions.cache_file import CacheWriter, ImageRows

_IMAGE = "antvisionps.image"


def part_path(path: Path, rank: int) -> Path:
    """Where process `rank` writes its part of the cache file `path`."""
    return path.with_name(f".{path.name}.part-{rank}")


def remove_parts(path: Path) -> None:
    """Removes all parts of the cache file `path`, also those that a killed run left."""
    for part in path.parent.glob(f".{path.name}.part-*"):
        part.unlink()


class PartWriter(AbstractContextManager["PartWriter"]):
    """A part written image by image; it goes where the block ends with an error."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._schema = schema

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._stream = pa.ipc.new_stream(self._file, self._schema, options=options)
        return self

    def append(self, image: ImageRows) -> None:
        described = json.dumps([image.image_id, image.height, image.width])
        self._stream.write_batch(image.rows, {_IMAGE: described})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stream.close()
        finally:
            self._file.close()
            if error is not None:
                self.path.unlink()


def merge_parts(parts: Sequence[Path], writer: CacheWriter, *, num_images: int) -> None:
    """Appends what the parts hold to an open writer: image k of the file is in part k modulo their number.

    Reads one image at a time. Raises CacheError unless they hold `num_images`.
    """
    streams = [_read(part) for part in parts]
    for number in range(num_images):
        image = next(streams[number % len(streams)], None)
        if image is None:
            raise CacheError(
                f"{parts[number % len(parts)]}: expected image number {number} of {num_images}, but it ends there; all "
                "processes have to see the same disk; run `dvc repro` to predict again"
            )
        writer.append(image)


def _read(path: Path) -> Iterator[ImageRows]:
    try:
        with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
            while True:
                batch = stream.read_next_batch_with_custom_metadata()
                image_id, height, width = json.loads(batch.custom_metadata[_IMAGE.encode()])
                yield ImageRows(image_id, height, width, batch.batch)
    except (StopIteration, FileNotFoundError):
        return
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheError(f"{path}: a damaged part ({error}); run `dvc repro` to predict again") from error
