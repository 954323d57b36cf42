"""Panoptic segmentation: fuse and score what any models predict. What stands here is loaded when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antvisionps.interchange.writer import Writer
    from antvisionps.pipeline import convert
    from antvisionps.pipeline.ensemble import fuse
    from antvisionps.pipeline.fuse_folders import fuse_folders
    from antvisionps.pipeline.score_results import panoptic_quality

__all__ = ["Writer", "convert", "fuse", "fuse_folders", "panoptic_quality"]

_MODULE_OF = {
    "Writer": "antvisionps.interchange.writer",
    "convert": "antvisionps.pipeline.convert",
    "fuse": "antvisionps.pipeline.ensemble",
    "fuse_folders": "antvisionps.pipeline.fuse_folders",
    "panoptic_quality": "antvisionps.pipeline.score_results",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULE_OF[name])
    return module if name == "convert" else getattr(module, name)
