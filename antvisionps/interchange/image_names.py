"""How other tools name the images of a split: by id or by the photo's file name."""

from collections import Counter
from functools import cached_property
from pathlib import PurePosixPath

from antvisionps.core.errors import PredictionsError
from antvisionps.core.file_names import base_name, stays_below
from antvisionps.panoptic.dataset import PanopticDataset
from antvisionps.panoptic.ids import find_by_id
from antvisionps.panoptic.segments import PanopticImage


class ImageFinder:
    """The images of a split by what may stand as a result's `image_id`."""

    def __init__(self, dataset: PanopticDataset) -> None:
        self._dataset = dataset
        self._by_id = {image.source_id: image for image in dataset.images}

    @cached_property
    def _by_photo(self) -> dict[str, PanopticImage]:
        return base_names(self._dataset)

    @cached_property
    def _by_name(self) -> dict[str, PanopticImage]:
        """Without names that are another image's number."""
        return {
            name: image
            for name, image in self._by_photo.items()
            if not name.isdecimal() or self._by_id.get(int(name), image) is image
        }

    def find(self, image_id: object, *, where: str, file_name: object = None) -> PanopticImage:
        """The image of that id or, as Ultralytics calls it, of the photo of that name without suffix: of a name that is
        a number it writes the number, and `file_name` beside it. Raises PredictionsError where the split has none, and
        where such a number is no photo's, or several photos', in a split whose photos are called by numbers."""
        name = _photo_name(file_name) if isinstance(file_name, str) else ""
        if image := self._by_photo.get(name):
            return image
        if isinstance(image_id, str) and image_id not in self._by_id and image_id in self._by_name:
            return self._by_name[image_id]
        try:
            image = find_by_id(image_id, self._by_id)
        except ValueError as error:
            raise PredictionsError(f"{where}: image_id {error}") from error
        if name.isdecimal() and _photo_name(image.file_name).isdecimal():
            return self.find_photo(file_name, where=where)  # says that it is none
        return image

    def find_photo(self, path: object, *, where: str) -> PanopticImage:
        """The image of the photo at a path, which may be another machine's: its last part without suffix tells. Raises
        PredictionsError where the split has none."""
        image = self._by_photo.get(_photo_name(path)) if isinstance(path, str) else None
        if image is None:
            raise PredictionsError(f"{where}: {str(path)[:80]!r} is no photo of this split, or the name of several")
        return image


def names_of(dataset: PanopticDataset) -> dict[str, PanopticImage]:
    """What a file of an image is called, without suffix → image: as its photo or, where that would leave the folder, as
    the last part of it. Raises PredictionsError where two would be of one name, or one in the other."""
    image_of: dict[str, PanopticImage] = {}
    for image in dataset.images:
        name = image.file_name if stays_below(image.file_name) else base_name(image.file_name)
        other = image_of.setdefault(_without_suffix(name), image)
        if other is not image:
            raise PredictionsError(
                f"{dataset.annotations}: images {other.source_id} and {image.source_id} are {other.file_name} and "
                f"{image.file_name}, so both would be of one file {_without_suffix(name)}.png; rename one of the photos"
            )
    folders = {str(folder) for name in image_of for folder in PurePosixPath(name).parents}
    for name, image in image_of.items():
        if f"{name}.npz" in folders:
            raise PredictionsError(
                f"{dataset.annotations}: image {image.source_id} is {image.file_name}, and its file {name}.npz would "
                "be a folder of other files; rename one of the photos"
            )
    return image_of


def base_names(dataset: PanopticDataset) -> dict[str, PanopticImage]:
    """A photo's name without folder and suffix → image; a name that several have is left out."""
    named = [(_photo_name(image.file_name), image) for image in dataset.images]
    times = Counter(name for name, _ in named)
    return {name: image for name, image in named if times[name] == 1}


def _photo_name(path: str) -> str:
    return _without_suffix(base_name(path))


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.stem)
