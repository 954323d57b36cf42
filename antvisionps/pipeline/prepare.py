"""What stage `prepare` does: the data set of params.yaml, checked and split into train, heldout and val."""

from functools import partial
from pathlib import Path

from antvisionps.datasets.cityscapes import prepare_cityscapes
from antvisionps.datasets.coco_instances import read_coco_instances
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.panoptic.splits import InstancesReader, SplitFiles, prepare_coco_panoptic, refuse_missing
from antvisionps.params.prepare import PANOPTIC_INSTANCES, CocoPanopticFolder, Prepare


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
            monitor_images=params.monitor_images,
            seed=params.seed,
            workers=workers,
        )
    elif params.source == "cityscapes" and params.cityscapes is not None:
        prepare_cityscapes(
            out,
            root=Path(params.cityscapes.root),
            heldout_images=params.heldout_images,
            monitor_images=params.monitor_images,
            seed=params.seed,
            workers=workers,
        )
    elif params.coco_panoptic is not None:
        prepare_coco_panoptic(
            out,
            root=params.coco_panoptic.root,
            **split_files(params.coco_panoptic),
            heldout_images=params.heldout_images,
            monitor_images=params.monitor_images,
            seed=params.seed,
            workers=workers,
            read_instances=instances_reader(params),
        )


def split_files(folder: CocoPanopticFolder) -> dict[str, SplitFiles]:
    """The files of `train` and of `val`."""
    return {"train": SplitFiles(**folder.train.model_dump()), "val": SplitFiles(**folder.val.model_dump())}


def instances_reader(params: Prepare) -> InstancesReader | None:
    """What reads the instances of prepare.instances; None where they are those of the maps."""
    if params.coco_panoptic is None or params.instances == PANOPTIC_INSTANCES:
        return None
    path = Path(params.coco_panoptic.root, params.instances)
    refuse_missing(path, what="prepare.instances")
    return partial(read_coco_instances, path)
