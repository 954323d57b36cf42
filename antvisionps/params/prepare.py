"""What data the pipeline runs on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from antvisionps.params.section import NonNegative, Positive, Section, Seed

PANOPTIC_INSTANCES = "panoptic"
"""Of `prepare.instances`: things are what the panoptic maps show of them."""


class Scenes(Section):
    """The built-in data set."""

    train_images: Annotated[int, Field(ge=1, le=10**6)]
    val_images: Annotated[int, Field(ge=1, le=10**6)]
    height_px: Annotated[int, Field(ge=64, le=1024)]
    width_px: Annotated[int, Field(ge=64, le=1024)]


class CocoPanopticSplit(Section):
    """One split on disk, relative to `root`: NAME.json, the folder of its PNGs, the folder of its photos."""

    annotations: str
    panoptic_dir: str
    images_dir: str


class CocoPanopticFolder(Section):
    root: str
    train: CocoPanopticSplit
    val: CocoPanopticSplit


class CityscapesFolder(Section):
    root: str


class Prepare(Section):
    source: Literal["scenes", "coco_panoptic", "cityscapes"]
    seed: Seed
    heldout_images: Positive
    monitor_images: NonNegative
    scenes: Scenes | None
    coco_panoptic: CocoPanopticFolder | None
    cityscapes: CityscapesFolder | None
    instances: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _source_is_described(self) -> Prepare:
        if getattr(self, self.source) is None:
            raise ValueError(f"source is {self.source}, so prepare.{self.source} must be filled in, not null")
        if self.instances != PANOPTIC_INSTANCES and self.source != "coco_panoptic":
            raise ValueError(
                f"instances is {self.instances} and source {self.source}; expected {PANOPTIC_INSTANCES}, as only "
                "coco_panoptic has a JSON of instances beside the maps"
            )
        if self.source == "scenes" and self.scenes is not None and self.heldout_images >= self.scenes.train_images:
            raise ValueError("heldout_images must be below scenes.train_images: they are taken out of train")
        return self
