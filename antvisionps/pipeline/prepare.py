"""What stage `prepare` does: the data set of params.yaml, checked and split into train, heldout and val."""

from functools import partial
from pathlib import Path

from antvisionps.datasets.cityscapes import prepare_cityscapes
from antvisionps.datasets.coco_instances import read_coco_instances
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.panoptic.splits import SplitFiles, prepare_coco_panoptic
from antvisionps.params.prepare import PANOPTIC_INSTANCES, Prepare


def prepare(params: Prepare, *, out: Path, workers: int) -> None:
    """Writes OUT with all splits. Raises DataError on data that breaks its format."""
    if params.source == "scenes" and params.scenes is not None:
        prepare_scenes(
            out,
            train_images=params.scenes.train_images,
            val_images=params.scenes.val_images,
            height=params.scenes.height_px,
            width=params.scenes.width_px,
            heldout_images=params.heldout_images,
            seed=params.seed,
            workers=workers,
        )
    elif params.source == "cityscapes" and params.cityscapes is not None:
        prepare_cityscapes(
            out,
            root=Path(params.cityscapes.root),
            heldout_images=params.heldout_images,
            seed=params.seed,
            workers=workers,
        )
    elif params.coco_panoptic is not None:
        annotations = Path(params.coco_panoptic.root, params.instances)
        of_the_maps = params.instances == PANOPTIC_INSTANCES
        prepare_coco_panoptic(
            out,
            root=params.coco_panoptic.root,
            train=SplitFiles(**params.coco_panoptic.train.model_dump()),
            val=SplitFiles(**params.coco_panoptic.val.model_dump()),
            heldout_images=params.heldout_images,
            seed=params.seed,
            workers=workers,
            read_instances=None if of_the_maps else partial(read_coco_instances, annotations),
        )
