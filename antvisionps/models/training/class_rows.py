"""Layers with a row for each class, taken from a detector that may know other classes in another order.

Rows go by the classes' names where both are known: a class that the detector does not know keeps its initialisation.
Where the file tells no names, it has to have as many classes, which are taken for the same.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from antvisionps.models.training.detector_files import DetectorFile, Names

_THINGS = {r"\.fc_cls\.": 1, r"\.fc_reg\.": 4, r"mask_head\.(\d\.)?conv_logits\.": 1}
"""Layers whose classes are the things, with so many rows for each; fc_cls has one more for the background, the last."""

_ALL = r"semantic_head\.(classifier|conv_logits)\.|^decoder\.classifier\."
"""Layers whose classes are things and stuff."""


def take_rows(
    name: str, own: Tensor, detector: DetectorFile, name_in_file: str, names: tuple[Names, Names]
) -> tuple[Tensor | None, str]:
    """The tensor that a layer starts with (None: it keeps `own`), and a note: why, or of how many classes.

    mmdet calls the layer `name`; `names` are our names of the things and of all classes.
    """
    theirs = detector.tensors[name_in_file]
    rows, ours, known = _classes(name, names, detector)
    extra = ".fc_cls." in name
    if not rows or len(own) != rows * len(ours) + extra or theirs.shape[1:] != own.shape[1:]:
        return (theirs, "") if theirs.shape == own.shape else (None, _other_shape(theirs, own))
    if known is None or len(theirs) != rows * len(known) + extra:
        if theirs.shape == own.shape:
            return theirs, "classes taken for the same, as the file names none"
        return None, f"for other classes {_other_shape(theirs, own)}"
    pairs = [(ours.index(name), index) for index, name in enumerate(known) if name in ours]
    if not pairs:
        return None, "for other classes, none of the same name"
    return _paired(own, theirs, pairs, rows, extra=extra), f"with {len(pairs)} of {len(ours)} classes, by name"


def _classes(name: str, names: tuple[Names, Names], detector: DetectorFile) -> tuple[int, Names, Names | None]:
    """Rows a class, 0 where the layer has none; our classes and the file's, None where they are not known."""
    if re.search(_ALL, name):
        return 1, names[1], detector.class_names
    rows = next((rows for pattern, rows in _THINGS.items() if re.search(pattern, name)), 0)
    return rows, names[0], detector.thing_names


def _paired(own: Tensor, theirs: Tensor, pairs: Sequence[tuple[int, int]], rows: int, *, extra: bool) -> Tensor:
    taken = own.clone()
    for ours, their in pairs:
        taken[ours * rows : (ours + 1) * rows] = theirs[their * rows : (their + 1) * rows]
    if extra:
        taken[-1] = theirs[-1]
    return taken


def _other_shape(theirs: Tensor, own: Tensor) -> str:
    return f"of shape {tuple(theirs.shape)}, here {tuple(own.shape)}"
