"""`antvisionps predict …`: the panoptic maps of any pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from antvisionps.core.extras import needs_extra

if TYPE_CHECKING:
    import numpy as np

    from antvisionps.datasets.pictures import Picture
    from antvisionps.fusion.heuristic import FusedImage
    from antvisionps.panoptic.categories import CategorySet
    from antvisionps.panoptic.segments import PanopticImage

JSON_FILE, MAPS_FOLDER, OVERLAYS_FOLDER = "panoptic.json", "panoptic", "overlays"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    description = (
        "Runs all ends and their fusion on pictures that need no ground truth. OUT gets overlays/*.png to look at, and "
        "panoptic/*.png with panoptic.json, the maps in the COCO panoptic format."
    )
    predict = commands.add_parser("predict", help="panoptic maps of any pictures", description=description)
    predict.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="a file, or a folder of pictures")
    predict.add_argument("--out", type=Path, required=True, help="folder to write; a former result is replaced")
    predict.add_argument("--models", type=Path, default=Path("data/models"), help="default: %(default)s")
    predict.add_argument("--routing", type=Path, default=Path("data/routing"), help="default: %(default)s")
    predict.add_argument("--calibration", type=Path, default=Path("data/calibration"), help="default: %(default)s")
    predict.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    predict.add_argument("--system", default="fusion", help="fusion (default), or one end alone")
    predict.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: runtime.device of the params")
    predict.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> None:
    from antvisionps.core.atomic import atomic_folder, refuse_other_files
    from antvisionps.core.progress import progress
    from antvisionps.datasets.pictures import check_pictures, describe_skipped, find_pictures, read_picture
    from antvisionps.panoptic.coco_json import write_panoptic_json
    from antvisionps.pipeline.predictor import open_predictor

    refuse_other_files(args.out, names=(JSON_FILE, MAPS_FOLDER, OVERLAYS_FOLDER))
    with atomic_folder(args.out) as folder:
        pictures, skipped = find_pictures(args.pictures, without=args.out)  # a former result is none of them
        if skipped:
            print(describe_skipped(skipped), file=sys.stderr)
        check_pictures(progress(pictures, description="check", total=len(pictures), unit="picture"))
        with needs_extra("models"):
            predict = open_predictor(
                args.models,
                system=args.system,
                params_path=args.params,
                routing_dir=args.routing,
                calibration_dir=args.calibration,
                device=args.device,
            )
        images: list[PanopticImage] = []
        for picture in progress(pictures, description="predict", total=len(pictures), unit="picture"):
            photo = read_picture(picture.path)
            images.append(_write(folder, len(images) + 1, picture, photo, predict(photo), predict.categories))
        write_panoptic_json(folder / JSON_FILE, categories=predict.categories, images=images)
    print(f"{len(images)} panoptic maps: {args.out / JSON_FILE}; to look at: {args.out / OVERLAYS_FOLDER}")


def _write(
    folder: Path, image_id: int, picture: Picture, photo: np.ndarray, fused: FusedImage, categories: CategorySet
) -> PanopticImage:
    from antvisionps.fusion.heuristic import coco_segments
    from antvisionps.inspection.pictures import write_picture
    from antvisionps.panoptic.png import write_segment_ids_png
    from antvisionps.panoptic.segments import PanopticImage
    from antvisionps.report.overlays import draw_panoptic

    segments = coco_segments(fused.segments)
    name = picture.name.with_suffix(".png")
    for place in (MAPS_FOLDER, OVERLAYS_FOLDER):
        (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
    write_segment_ids_png(folder / MAPS_FOLDER / name, fused.segment_ids)
    write_picture(folder / OVERLAYS_FOLDER / name, draw_panoptic(photo, fused.segment_ids, segments, categories))
    height, width = photo.shape[:2]
    return PanopticImage(image_id, picture.name.as_posix(), name.as_posix(), height, width, segments)
