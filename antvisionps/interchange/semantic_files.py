"""Semantic predictions as a file an image: a PNG of labels, or an npz of probabilities.

A file is called as the image's photo, but for the suffix, with or without its subfolders; hidden files are ignored. A
PNG is grey or a palette, whose indices are the labels, of the upright photo's size; an npz is that of
probability_files.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from antvisionps.core.errors import PredictionsError
from antvisionps.core.file_names import path_below
from antvisionps.core.input_files import files_below, read_file
from antvisionps.interchange.image_names import base_names, names_of
from antvisionps.interchange.label_table import LabelTable
from antvisionps.interchange.probability_files import read_probabilities
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.png import PngHeader, decode_labels, read_header
from antvisionps.panoptic.segments import PanopticImage
from antvisionps.predictions.semantic import ImageSemantics

VOID_CATEGORY = -1
"""Of pixels without a category; 0 can be one."""


def read_semantic_files(folder: Path, *, dataset: PanopticDataset, labels: LabelTable) -> Iterator[ImageSemantics]:
    """Every image of the split, in ascending image_id.

    Raises PredictionsError on a missing, unreadable or surplus file, two files of an image, two photos whose names
    differ in the suffix alone, another size, an unknown category, and on what is no probability.
    """
    for image, path in every_file(folder, dataset, list(READERS)):
        yield READERS[path.suffix.lower()](path, image, labels)


def write_semantic_files(folder: Path, images: Iterable[ImageSemantics], *, dataset: PanopticDataset) -> None:
    """An npz an image; `read_semantic_files` gives the same planes again. Same planes, same bytes.

    Raises PredictionsError on two photos whose names differ in the suffix alone.
    """
    name_of = {image.image_id: name for name, image in names_of(dataset).items()}
    for image in images:
        path = path_below(folder, f"{name_of[image.image_id]}.npz", error=PredictionsError)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            probs=image.planes,
            category_ids=image.category_ids,
            input_hw=np.array([image.input_height, image.input_width], dtype=np.int32),
            stride=np.float32(image.stride),
        )


def semantics_from_labels(
    label_map: np.ndarray, image: PanopticImage, labels: LabelTable, where: str
) -> ImageSemantics:
    """Of an (H, W) map of labels. Raises PredictionsError on another size and on an unknown label."""
    refuse_other_size(where, image, label_map.shape)
    present, inverse = np.unique(label_map, return_inverse=True)
    category_ids = [labels.category_of_pixels(int(label), where=where) for label in present.tolist()]
    listed = [VOID_CATEGORY if category_id is None else category_id for category_id in category_ids]
    category_map = np.array(listed, dtype=np.int32)[inverse.reshape(label_map.shape)]
    return one_hot_semantics(category_map, image, labels.categories)


def one_hot_semantics(category_map: np.ndarray, image: PanopticImage, categories: CategorySet) -> ImageSemantics:
    """Semantics that are sure of (H, W) category ids, VOID_CATEGORY where void, on a grid of the photo's own pixels."""
    present = {int(category_id) for category_id in np.unique(category_map)} - {VOID_CATEGORY}
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


def refuse_other_size(path: Path | str, image: PanopticImage, got_hw: tuple[int, ...]) -> None:
    hw = image.height, image.width
    if got_hw != hw:
        is_swapped = got_hw == hw[::-1]
        remedy = (
            "turn photos upright by their EXIF orientation first" if is_swapped else "resize predictions to the photo"
        )
        raise PredictionsError(
            f"{path}: expected {image.height} x {image.width} px (height x width) as the photo of image "
            f"{image.source_id} has, got {' x '.join(map(str, got_hw))}; {remedy}"
        )


def every_file(folder: Path, dataset: PanopticDataset, suffixes: Sequence[str]) -> Iterator[tuple[PanopticImage, Path]]:
    """Every image of the split and its file. Raises PredictionsError on a missing one, else what files_by_image
    does."""
    file_of_image = files_by_image(folder, dataset, suffixes)
    for name, image in names_of(dataset).items():
        if image.image_id not in file_of_image:
            raise PredictionsError(
                f"{folder}: no {name}{' or '.join(suffixes)}, image {image.source_id} is missing; every one of the "
                "split is needed"
            )
        yield image, file_of_image[image.image_id]


def files_by_image(folder: Path, dataset: PanopticDataset, suffixes: Sequence[str]) -> dict[int, Path]:
    """image_id → its file. Raises PredictionsError on files of no image, of another suffix, and two of one image."""
    names = names_of(dataset)
    known = base_names(dataset) | names
    found: dict[int, Path] = {}
    for path in files_below(folder):
        below = path.relative_to(folder)
        image = known.get(below.with_suffix("").as_posix())
        if image is None or path.suffix.lower() not in suffixes:
            what = "no image of this split has a photo of that name" if image is None else "a file of another kind"
            expected = " or ".join(f"NAME{suffix}" for suffix in suffixes)
            raise PredictionsError(
                f"{path}: {what}; expected {expected} as {next(iter(names))}{suffixes[0]}, and no others"
            )
        other = found.setdefault(image.image_id, path)
        if other != path:
            raise PredictionsError(f"{other} and {path} are of the same image; keep one")
    return found


def _read_labels_png(path: Path, image: PanopticImage, labels: LabelTable) -> ImageSemantics:
    label_map, _ = load_png(path, image, decode_labels)
    return semantics_from_labels(label_map, image, labels, str(path))


READERS: dict[str, Callable[[Path, PanopticImage, LabelTable], ImageSemantics]] = {
    ".png": _read_labels_png,
    ".npz": read_probabilities,
}
"""Suffix → reader."""
