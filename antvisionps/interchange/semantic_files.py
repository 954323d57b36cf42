"""Semantic predictions as a file an image: a PNG of labels, or an npz of probabilities.

A file is called as the image's photo, but for the suffix, subfolders included; hidden files are ignored. A PNG is grey
or a palette, whose indices are the labels, of the upright photo's size. An npz holds `probs` (C, grid_height,
grid_width), floats from 0 to 1 or uint8 with 255 for 1, and `category_ids` (C,), the labels of its planes; the grid may
be coarser than the photo. `input_hw` and `stride` beside them say how the grid lies on the network's input if it is not
exactly on the whole photo.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from antvisionps.core.errors import CacheError, PredictionsError
from antvisionps.core.input_files import files_below, open_file, read_file
from antvisionps.interchange.label_table import LabelTable
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import PngHeader, decode_labels, read_header
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.semantic import ImageSemantics

ROUNDING_ABOVE_ONE = 1e-3
"""A softmax in half precision overshoots 1 by no more."""


def read_semantic_files(folder: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageSemantics]:
    """Every image of the split, in ascending image_id.

    Raises PredictionsError on a missing, unreadable or surplus file, two files of an image, two photos whose names
    differ in the suffix alone, another size, an unknown category, and on what is no probability.
    """
    file_of_name = _files_by_name(folder, _images_by_name(dataset))
    for image in dataset.images:
        path = file_of_name.get(_name(image))
        if path is None:
            raise PredictionsError(
                f"{folder}: no {_name(image)}.png or .npz, image {image.image_id} is missing; every image of the split "
                "is needed"
            )
        yield _read_labels_png(path, image, labels) if path.suffix.lower() == ".png" else _read_npz(path, image, labels)


def write_semantic_files(folder: Path, images: Iterable[ImageSemantics], *, dataset: PanopticDataset) -> None:
    """An npz an image; `read_semantic_files` gives the same planes again. Same planes, same bytes.

    Raises PredictionsError on two photos whose names differ in the suffix alone.
    """
    _images_by_name(dataset)
    described = {image.image_id: image for image in dataset.images}
    for image in images:
        path = folder / f"{_name(described[image.image_id])}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            probs=image.planes,
            category_ids=image.category_ids,
            input_hw=np.array([image.input_height, image.input_width], dtype=np.int32),
            stride=np.float32(image.stride),
        )


def one_hot_semantics(category_map: np.ndarray, image: PanopticImage, categories: CategorySet) -> ImageSemantics:
    """Semantics that are sure of (H, W) category ids, 0 where void, on a grid of the photo's own pixels."""
    present = {int(category_id) for category_id in np.unique(category_map)} - {0}
    # A cache lists at least one category, so an image that is void all over lists an empty one.
    listed = sorted(present, key=categories.class_index) or categories.category_ids[:1].tolist()
    planes = np.stack([category_map == category_id for category_id in listed])
    return ImageSemantics(
        image_id=image.image_id,
        height=image.height,
        width=image.width,
        input_height=image.height,
        input_width=image.width,
        stride=1.0,
        category_ids=np.array(listed, dtype=np.int32),
        planes=planes.view(np.uint8) * np.uint8(255),
    )


def load_png(path: Path, image: PanopticImage, decode: Callable[[bytes], np.ndarray]) -> tuple[np.ndarray, PngHeader]:
    """What `decode` makes of the image's PNG, and its header. Raises PredictionsError on a file that is missing,
    damaged or of another kind, and on another size than the photo's, before it decodes."""
    try:
        png = read_file(path)
        header = read_header(png)
        refuse_other_size(path, image, header.hw)
        return decode(png), header
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PredictionsError(f"{path}: cannot be read ({reason}); write it again") from error


def refuse_other_size(path: Path, image: PanopticImage, got_hw: tuple[int, ...]) -> None:
    hw = image.height, image.width
    if got_hw != hw:
        is_swapped = got_hw == hw[::-1]
        remedy = (
            "turn photos upright by their EXIF orientation first" if is_swapped else "resize predictions to the photo"
        )
        raise PredictionsError(
            f"{path}: expected {image.height} x {image.width} px (height x width) as the photo of image "
            f"{image.image_id} has, got {' x '.join(map(str, got_hw))}; {remedy}"
        )


def _name(image: PanopticImage) -> str:
    return str(PurePosixPath(image.file_name).with_suffix(""))


def _images_by_name(dataset: PanopticDataset) -> dict[str, PanopticImage]:
    """A file's name without its suffix → image."""
    image_of: dict[str, PanopticImage] = {}
    for image in dataset.images:
        other = image_of.setdefault(_name(image), image)
        if other is not image:
            raise PredictionsError(
                f"{dataset.annotations}: images {other.image_id} and {image.image_id} are {other.file_name} and "
                f"{image.file_name}, so both would be of one file {_name(image)}.png; rename one of the photos"
            )
    return image_of


def _files_by_name(folder: Path, known: dict[str, PanopticImage]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files_below(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in (".png", ".npz") or name not in known:
            raise PredictionsError(
                f"{path}: no image of this split has a photo of that name; expected NAME.png or NAME.npz as "
                f"{next(iter(known))}.png"
            )
        if name in found:
            raise PredictionsError(f"{found[name]} and {path} are of the same image; keep one")
        found[name] = path
    return found


def _read_labels_png(path: Path, image: PanopticImage, labels: LabelTable) -> ImageSemantics:
    label_map, _ = load_png(path, image, decode_labels)
    present, inverse = np.unique(label_map, return_inverse=True)
    category_ids = [labels.category_of_pixels(label, where=str(path)) or 0 for label in present.tolist()]
    category_map = np.array(category_ids, dtype=np.int32)[inverse.reshape(label_map.shape)]
    return one_hot_semantics(category_map, image, labels.categories)


def _read_npz(path: Path, image: PanopticImage, labels: LabelTable) -> ImageSemantics:
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as arrays:
            probs, plane_labels = arrays["probs"], arrays["category_ids"].tolist()
            input_hw = arrays["input_hw"].tolist() if "input_hw" in arrays else probs.shape[1:]
            stride = float(arrays["stride"]) if "stride" in arrays else 1.0
            (input_height, input_width) = (int(side) for side in input_hw)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise PredictionsError(
            f"{path}: expected an npz of probs (C, height, width) and category_ids (C,), got none ({error})"
        ) from error
    if probs.ndim != 3 or len(plane_labels) != len(probs):
        raise PredictionsError(
            f"{path}: expected probs (C, height, width) and category_ids (C,), got {probs.shape} and "
            f"{len(plane_labels)} ids"
        )
    is_thing = None if labels.things == labels.stuff else False
    category_ids = [labels.category_id(label, is_thing=is_thing, where=str(path)) for label in plane_labels]
    place: dict[str, Any] = {
        "image_id": image.image_id,
        "height": image.height,
        "width": image.width,
        "input_height": input_height,
        "input_width": input_width,
        "stride": stride,
        "category_ids": np.array(category_ids, dtype=np.int32),
    }
    try:
        if probs.dtype == np.uint8:
            return ImageSemantics(**place, planes=probs)
        _refuse_other_than_probabilities(path, probs)
        return ImageSemantics.from_probs(**place, probs=probs.astype(np.float32))
    except CacheError as error:
        raise PredictionsError(f"{path}: {error}") from error


def _refuse_other_than_probabilities(path: Path, probs: np.ndarray) -> None:
    if probs.dtype.kind != "f":
        raise PredictionsError(f"{path}: expected probs of a float type or uint8, got {probs.dtype}")
    low, high = probs.min(initial=0), probs.max(initial=0)
    if not (low >= 0 and high <= 1 + ROUNDING_ABOVE_ONE):  # false for NaN
        raise PredictionsError(f"{path}: expected probabilities from 0 to 1, got {low} to {high}; are these logits?")
