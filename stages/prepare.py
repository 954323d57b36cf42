"""Stage `prepare`: the data set of params.yaml, checked and split into train, heldout and val."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from antvisionps.datasets.cityscapes import prepare_cityscapes
from antvisionps.datasets.coco_instances import write_coco_instances
from antvisionps.datasets.scenes import prepare_scenes
from antvisionps.datasets.splits import SplitFiles, prepare_coco_panoptic
from antvisionps.params import PANOPTIC_INSTANCES, Prepare, load_params
from antvisionps.stage import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    prepare(arguments.out, params.prepare, workers=params.runtime.workers)


def prepare(out: Path, params: Prepare, *, workers: int) -> None:
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
            write_instances=None if of_the_maps else partial(write_coco_instances, annotations),
        )


if __name__ == "__main__":
    run_stage(main)
