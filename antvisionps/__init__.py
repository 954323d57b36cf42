"""What Python code calls first; each name is imported when it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antvisionps.pipeline.score_results import panoptic_quality as panoptic_quality

_MODULE_OF = {"panoptic_quality": "antvisionps.pipeline.score_results"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
