"""Finds, checks and reads pictures without ground truth."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from antvisionps.core.errors import DataError
from antvisionps.panoptic.dataset import EIGHT_BIT_MODES

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Of the pictures in a folder. A file that the caller names may have any suffix."""

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Picture:
    """`name`: below the folder that it was found in."""

    path: Path
    name: Path


def find_pictures(places: Sequence[Path]) -> list[Picture]:
    """The named files, and all pictures in and below the named folders but hidden ones; sorted by name.

    Raises DataError on a missing place, a folder without a picture, and two pictures whose names differ in the suffix
    alone: their results would have the same name.
    """
    found: dict[Path, Picture] = {}
    for place in places:
        if place.is_dir():
            found |= {one.path.resolve(): one for one in _pictures_below(place)}
        elif place.is_file():
            found[place.resolve()] = Picture(place, Path(place.name))
        else:
            raise DataError(f"{place}: no such picture or folder")
    _refuse_same_names(found.values())
    return sorted(found.values(), key=lambda one: one.name.as_posix())


def _pictures_below(folder: Path) -> list[Picture]:
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    pictures = [Picture(folder / name, name) for name in names if not any(part.startswith(".") for part in name.parts)]
    if not pictures:
        raise DataError(f"{folder}: no picture in this folder; expected files like *{', *'.join(sorted(SUFFIXES))}")
    return pictures


def check_pictures(pictures: Iterable[Picture]) -> None:
    """Decodes all pictures. Raises DataError that names the unreadable ones."""
    problems = []
    for picture in pictures:
        try:
            read_picture(picture.path)
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = [f"and {len(problems) - _NAMED} more pictures cannot be read"] if len(problems) > _NAMED else []
        raise DataError("\n".join(problems[:_NAMED] + more))


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright by its EXIF orientation; of an animation the first frame.

    Grey and palettes become RGB; transparency is dropped, as in training. Raises DataError when the
    file is missing, damaged, no picture, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in EIGHT_BIT_MODES:
                raise ValueError(f"8 bits a channel expected, got Pillow's mode {picture.mode}; convert it first")
            upright = ImageOps.exif_transpose(picture)
            if upright.mode == "P":  # a palette's transparency becomes alpha, which RGB drops
                upright = upright.convert("RGBA")
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as a picture ({reason})") from error


def _refuse_same_names(pictures: Iterable[Picture]) -> None:
    paths_of: defaultdict[Path, list[Path]] = defaultdict(list)
    for picture in pictures:
        paths_of[picture.name.with_suffix("")].append(picture.path)
    for name, paths in paths_of.items():
        if len(paths) > 1:
            first, second = sorted(paths)[:2]
            raise DataError(
                f"{first} and {second}: the results of both would be called {name}.png; rename one, or predict apart"
            )
