"""What a notebook shows of an image, an instance or a map: its picture, under a line that says what it is."""

from __future__ import annotations

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from antvisionps.core.errors import AntVisionPSError
from antvisionps.core.extras import needs_extra

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
        from antvisionps.report.overlays import encode_picture

        line = f"<p>{html.escape(str(self))}</p>"
        try:
            encoded = base64.b64encode(encode_picture(self.picture())).decode()
        except AntVisionPSError as error:  # the photos are elsewhere
            return f"{line}<p>{html.escape(str(error))}</p>"
        return f'{line}<img src="data:image/png;base64,{encoded}">'


def to_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Raises AntVisionPSError without pandas."""
    with needs_extra(EXTRA):
        import pandas as pd
    return pd.DataFrame(records)
