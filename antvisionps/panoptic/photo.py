"""Photos as RGB, turned upright: the one reader for training, prediction, report and pictures out of no data set.

Viewers, OpenCV, detectron2 and tools to annotate with turn a photo by its EXIF orientation, so the size that a data set
gives for it, and its map, are of the upright photo.
"""

import shlex
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from antvisionps.core.input_files import open_file
from antvisionps.panoptic.png import MAX_PIXELS

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Pillow's modes that turn into 8-bit RGB without loss; it would clip a 16-bit photo."""

UPRIGHT = 1
"""EXIF's orientation of a photo that is stored as it is seen (TIFF 6.0, Orientation)."""

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation → what turns the stored pixels upright."""

SWAPS_SIDES = frozenset({5, 6, 7, 8})
"""Orientations under which width and height change places."""

_MAY_HOLD_EXIF = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
"""Where Pillow's `info` has an orientation; a TIFF has it among its own tags."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files."""

_quiet = Lock()


class OtherSizeError(ValueError):
    """A photo of another (H, W) than expected: upright, and as its pixels are stored."""

    def __init__(self, upright_hw: tuple[int, int], orientation: int) -> None:
        self.upright_hw, self.orientation = upright_hw, orientation
        self.stored_hw = upright_hw[::-1] if orientation in SWAPS_SIDES else upright_hw
        super().__init__(f"it has {upright_hw[0]} x {upright_hw[1]} px")


@dataclass(frozen=True, eq=False, slots=True)
class Photo:
    """rgb (H, W, 3) uint8, upright; `stored`, the same as the file has it; the file's EXIF orientation."""

    rgb: np.ndarray
    stored: np.ndarray
    orientation: int


def read_photo(path: Path, *, hw: tuple[int, int] | None = None) -> Photo:
    """The photo, of an animation the first frame. Grey and palettes become RGB, transparency is dropped.

    Raises OtherSizeError where it is not of the expected (H, W), before anything is decoded if no turning could make
    it so; ValueError on a file that is missing, damaged, no picture, or has more than 8 bits a channel or more than
    MAX_PIXELS.
    """
    try:
        with open_file(path) as file, _opened(file) as picture:
            if picture.mode not in EIGHT_BIT_MODES:
                raise ValueError(f"8 bits a channel expected, got Pillow's mode {picture.mode}; convert it first")
            return _decode(picture, hw)
    except OtherSizeError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("truncated, corrupt or of no format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {MAX_PIXELS} pixels; shrink it or cut it up") from error
    except _DECODER_ERRORS as error:
        raise ValueError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def read_orientation(path: Path) -> int:
    """The EXIF orientation that a photo's header gives, UPRIGHT where it has none or cannot be read."""
    try:
        with open_file(path) as file, _opened(file) as picture:
            return _early_orientation(picture) or UPRIGHT
    except (*_DECODER_ERRORS, Image.DecompressionBombError):
        return UPRIGHT


def read_hw(path: Path) -> tuple[int, int]:
    """(H, W) of the photo turned upright, by its header where that has its EXIF. Raises ValueError on what is no
    picture."""
    try:
        with open_file(path) as file, _opened(file) as picture:
            orientation = _early_orientation(picture)
            if orientation is None:
                picture.load()
                orientation = _orientation(picture)
            swaps = orientation in SWAPS_SIDES and picture.format != "TIFF"
            return picture.size if swaps else picture.size[::-1]
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def untag_command(path: Path) -> str:
    """What removes the orientation from a photo, or from all photos of a folder, and leaves the pixels alone."""
    return f"exiftool -Orientation= {shlex.quote(str(path))}"


def warn_of_turned_photos(photos: Iterable[tuple[Path, int]]) -> None:
    """A line on stderr about those of the photos, each with its EXIF orientation, that are turned upright.

    It is for photos whose size is the same either way, so that nothing tells what their map was drawn on.
    """
    turned = [(path, orientation) for path, orientation in photos if orientation != UPRIGHT]
    if turned:
        path, orientation = turned[0]
        print(
            f"warning: {len(turned)} photos carry an EXIF orientation ({path} first, orientation {orientation}); they "
            "are turned upright, as viewers show them. Where maps were drawn on the stored pixels, remove it: "
            f"{untag_command(path)}",
            file=sys.stderr,
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Without Pillow's warnings of odd metadata; Python's filters are the whole process's, so one thread at a time."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(file: BinaryIO) -> Image.Image:
    with _silence():
        return Image.open(file)


def _decode(picture: Image.Image, hw: tuple[int, int] | None) -> Photo:
    orientation = _early_orientation(picture)
    if orientation is None and (hw is None or sorted(picture.size) == sorted(hw)):
        picture.load()
        orientation = _orientation(picture)
    # Pillow turns a TIFF by itself, and gives its upright size from the beginning.
    turns_itself = picture.format == "TIFF"
    swaps = orientation in SWAPS_SIDES and not turns_itself
    upright_hw = picture.size if swaps else (picture.height, picture.width)
    if hw is not None and upright_hw != hw:
        raise OtherSizeError(upright_hw, orientation or UPRIGHT)
    if turns_itself:
        with _silence():
            picture.load()
    picture.info.pop("transparency", None)  # Pillow would look for the colour that RGB has no place for
    picture = picture.convert("RGB")
    rgb = stored = np.asarray(picture)
    if orientation in _TURN and not turns_itself:
        rgb = np.asarray(picture.transpose(_TURN[orientation]))
    return Photo(rgb, stored, orientation or UPRIGHT)


def _early_orientation(picture: Image.Image) -> int | None:
    """Before the pixels are decoded; None for a PNG whose EXIF may stand after them."""
    return None if picture.format == "PNG" and "exif" not in picture.info else _orientation(picture)


def _orientation(picture: Image.Image) -> int:
    if picture.format != "TIFF" and _MAY_HOLD_EXIF.isdisjoint(picture.info):
        return UPRIGHT
    try:
        with _silence():
            orientation = picture.getexif().get(0x0112)
    except _DECODER_ERRORS:  # broken EXIF is no EXIF
        return UPRIGHT
    return orientation if orientation in _TURN else UPRIGHT
