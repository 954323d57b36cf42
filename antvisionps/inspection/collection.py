"""Images by their id and their photos, and the end of an error message about a wrong name or id: what there is
instead."""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, TypeVar, cast

import numpy as np

from antvisionps.core.errors import CacheError
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.splits import SplitName, open_split

_NAMED = 5

Image = TypeVar("Image")


class ImagesById(Generic[Image]):
    """Images in ascending id, which is the data set's own. `images[12]` is the image whose id is 12, not the
    thirteenth; where ids are text, `images["berlin_7"]` is one."""

    def __init__(
        self,
        folder: Path,
        categories: CategorySet,
        image_ids: Sequence[ImageId],
        open_image: Callable[[ImageId], Image],
    ) -> None:
        self.folder, self.categories, self.image_ids = folder, categories, list(image_ids)
        self._id_set = frozenset(image_ids)
        self._open_image = open_image

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._id_set

    def __iter__(self) -> Iterator[Image]:
        return (self._open_image(image_id) for image_id in self.image_ids)

    def __getitem__(self, image_id: ImageId) -> Image:
        """Raises CacheError that names the nearest ids where there is no such image."""
        if image_id not in self:
            raise CacheError(f"{self.folder}: no image {image_id}{name_nearest(image_id, self.image_ids)}")
        return self._open_image(image_id)


def name_choices(names: Sequence[str]) -> str:
    """`; there are a, b and c`, of many the first few."""
    if not names:
        return "; there is none"
    shown, more = names[:_NAMED], len(names) - _NAMED
    listed = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
    return f"; there {'is' if len(names) == 1 else 'are'} {listed}"


def name_nearest(image_id: ImageId, image_ids: Sequence[ImageId]) -> str:
    """`; its 60 images go from …` and the ids nearest to the one asked for, ascending."""
    if not image_ids:
        return "; it has no image"
    ordered = sorted(image_ids)
    nearest = sorted(_nearest(image_id, ordered))
    return (
        f"; its {len(image_ids)} images go from {ordered[0]} to {ordered[-1]}, nearest are "
        f"{', '.join(map(str, nearest))}"
    )


def _nearest(image_id: ImageId, ordered: Sequence[ImageId]) -> list[ImageId]:
    numbers = [existing for existing in ordered if isinstance(existing, int)]
    if isinstance(image_id, int) and numbers:
        return list(sorted(numbers, key=lambda existing: (abs(existing - image_id), existing))[:_NAMED])
    texts = {str(existing): existing for existing in ordered}
    return [texts[text] for text in get_close_matches(str(image_id), texts, n=_NAMED, cutoff=0.0)]


def image_id_of_text(text: str, image_ids: Sequence[ImageId]) -> ImageId:
    """The id that a text from the command line means: a number where the ids are numbers, if it is one."""
    is_text = any(isinstance(image_id, str) for image_id in image_ids)
    try:
        return text if is_text else int(text)
    except ValueError:
        return text


def load_photo(prepared: Path, split: str, image_id: ImageId) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. Raises CacheError where the split has no such image, DataError where `prepared` is
    not what stage prepare wrote."""
    dataset = open_split(prepared, cast(SplitName, split))
    for image in dataset.images:
        if image.source_id == image_id:
            return dataset.load_photo(image)
    raise CacheError(f"{dataset.annotations}: no image {image_id}, so no photo; the predictions are of other data")
