"""What a notebook shows of an image, an instance or a map: its picture, under a line that says what it is."""

from __future__ import annotations

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from antvisionps.core.errors import AntVisionPSError, CacheError
from antvisionps.core.extras import needs_extra
from antvisionps.panoptic.ids import ImageId
from antvisionps.panoptic.splits import SplitName, open_split

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EXTRA = "notebooks"


class Shown(ABC):
    """Anything with a picture. Its repr is the line."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, with a legend."""

    def plot(self, axes: Axes | None = None) -> Axes:
        """The picture in matplotlib's axes, new ones by default. Raises AntVisionPSError without matplotlib."""
        with needs_extra(EXTRA):
            from matplotlib import pyplot
        axes = pyplot.subplots()[1] if axes is None else axes
        axes.imshow(self.picture())
        axes.set_axis_off()
        axes.set_title(str(self), parse_math=False)
        return axes

    def _repr_html_(self) -> str:
        from antvisionps.inspection.pictures import encode_picture

        line = f"<p>{html.escape(str(self))}</p>"
        try:
            encoded = base64.b64encode(encode_picture(self.picture())).decode()
        except AntVisionPSError as error:  # the photos are elsewhere
            return f"{line}<p>{html.escape(str(error))}</p>"
        return f'{line}<img src="data:image/png;base64,{encoded}">'


def load_photo(prepared: Path, split: str, image_id: ImageId) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. Raises CacheError where the split has no such image, DataError where `prepared` is
    not what stage prepare wrote."""
    dataset = open_split(prepared, cast(SplitName, split))
    for image in dataset.images:
        if image.source_id == image_id:
            return dataset.load_photo(image)
    raise CacheError(f"{dataset.annotations}: no image {image_id}, so no photo; the predictions are of other data")


def to_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Raises AntVisionPSError without pandas."""
    with needs_extra(EXTRA):
        import pandas as pd
    return pd.DataFrame(records)
