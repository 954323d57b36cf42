"""Photos as annotation tools name them: in a folder of another machine, or with what an upload put before the name."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from antvisionps.core.errors import DataError
from antvisionps.core.file_names import base_name
from antvisionps.core.input_files import files_below
from antvisionps.panoptic.ids import whole_number
from antvisionps.panoptic.photo import read_hw
from antvisionps.panoptic.png import MAX_PIXELS

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


class PhotoFinder:
    """The photos in and below a folder, which is listed once."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of photos; correct its path")
        self._folder = folder
        self._path_of: dict[str, Path | None] = {}
        for path in files_below(folder):
            self._path_of[path.name] = None if path.name in self._path_of else path

    def names(self) -> frozenset[str]:
        """Base names of all files, pictures or not."""
        return frozenset(self._path_of)

    def find(self, name: str, *, where: str) -> Path:
        """What `look_up` finds. Raises DataError where that is none."""
        if (found := self.look_up(name)) is not None:
            return found
        several = " (several folders have one)" if base_name(name) in self._path_of else ""
        raise DataError(f"{where}: no photo {name!r} in {self._folder}{several}; put it there or remove its annotation")

    def look_up(self, name: str) -> Path | None:
        """The file of that path below the folder, else the only one below it of that base name, with or without the
        prefix of an upload."""
        path = self._folder / name
        if ".." not in path.parts and path.is_file():
            return path
        base = base_name(name)
        found = (self._path_of.get(tried) for tried in (base, _UPLOAD.sub("", base)))
        return next(filter(None, found), None)


def annotated_hw(height: object, width: object, photo: Path) -> tuple[int, int]:
    """What an annotation says, else the photo. Raises ValueError on what is no size of a picture, and DataError as
    `photo_hw` does."""
    if height is None or width is None:
        return photo_hw(photo)
    hw = whole_number(height), whole_number(width)
    if min(hw) < 1 or hw[0] * hw[1] > MAX_PIXELS:
        raise ValueError(f"expected a height and width from 1 and at most {MAX_PIXELS} pixels, got {hw[0]}x{hw[1]}")
    return hw


def photo_hw(path: Path) -> tuple[int, int]:
    """(H, W), upright. Raises DataError on what is no picture."""
    try:
        return read_hw(path)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as a photo ({error}); replace it or remove its annotation") from error


def common_folder(photos: Iterable[Path]) -> Path:
    """The innermost folder that all of them are in or below."""
    return Path(os.path.commonpath([photo.absolute().parent for photo in photos]))
