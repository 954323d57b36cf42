"""Finds, checks and reads pictures without ground truth."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from antvisionps.core.errors import DataError
from antvisionps.core.input_files import files_below
from antvisionps.panoptic.photo import read_photo

_WITHOUT_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
"""Formats whose files Pillow knows by their name, but cannot decode by itself."""

_NAMED, _NAMED_A_SUFFIX = 5, 3


@dataclass(frozen=True, slots=True)
class Picture:
    """`name`: below the folder that it was found in."""

    path: Path
    name: Path


@cache
def picture_suffixes() -> frozenset[str]:
    """Those of pictures in a folder, in small letters: of all that Pillow decodes, with the plugins that are loaded."""
    suffixes = Image.registered_extensions()  # loads all of Pillow's own
    return frozenset(end for end, name in suffixes.items() if name in Image.OPEN and name not in _WITHOUT_PIXELS)


def find_pictures(places: Sequence[Path], *, without: Path | None = None) -> tuple[list[Picture], list[Path]]:
    """The named files, whatever their suffix, and all pictures in and below the named folders, sorted by name; and the
    files of these folders that are skipped, as their suffix is no picture's. Hidden files are neither, nor are those
    below the folder `without`.

    Raises DataError on a missing place, a folder without a picture, and two pictures whose names differ in the suffix
    alone: their results would have the same name.
    """
    found: dict[Path, Picture] = {}
    skipped: dict[Path, Path] = {}
    for place in places:
        if place.is_dir():
            pictures, others = _pictures_below(place, without)
            found |= {one.path.resolve(): one for one in pictures}
            skipped |= {path.resolve(): path for path in others}
        elif place.exists():
            found[place.resolve()] = Picture(place, Path(place.name))
        else:
            raise DataError(f"{place}: no such picture or folder")
    _refuse_same_names(found.values())
    by_name = sorted(found.values(), key=lambda one: one.name.as_posix())
    return by_name, [path for resolved, path in skipped.items() if resolved not in found]


def describe_skipped(skipped: Sequence[Path]) -> str:
    """One line: how many files of each suffix, and their first names."""
    of_suffix: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(skipped):
        of_suffix[path.suffix.lower() or "no suffix"].append(path.name)
    kinds = [f"{len(names)} {suffix} ({_first(names)})" for suffix, names in sorted(of_suffix.items())]
    return f"skipped, as no pictures: {', '.join(kinds)}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED_A_SUFFIX]) + (", …" if len(names) > _NAMED_A_SUFFIX else "")


def _pictures_below(folder: Path, without: Path | None) -> tuple[list[Picture], list[Path]]:
    files, suffixes = files_below(folder), picture_suffixes()
    if without is not None:
        files = [path for path in files if not path.resolve().is_relative_to(without.resolve())]
    pictures = [Picture(path, path.relative_to(folder)) for path in files if path.suffix.lower() in suffixes]
    others = [path for path in files if path.suffix.lower() not in suffixes]
    if not pictures:
        but = f" ({describe_skipped(others)})" if others else ""
        raise DataError(f"{folder}: no picture in this folder{but}; expected files like *.jpg, *.png, *.webp")
    return pictures, others


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
    """(H, W, 3) uint8 RGB as `read_photo` reads it. Raises DataError where that raises."""
    try:
        return read_photo(path).rgb
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error


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
