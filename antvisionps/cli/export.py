"""`antvisionps export …`: what the pipeline has, as files that other tools and servers take."""

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write predictions for other tools, or a submission to COCO's server")
    kinds = export.add_subparsers(required=True, metavar="KIND")

    end = kinds.add_parser("end", help="an end's cache as COCO results JSON and a npz of probabilities an image")
    end.add_argument("end", help="one of ends or import_end.ends")
    end.add_argument("--split", required=True, choices=("heldout", "val"))
    end.add_argument("--to", type=Path, required=True, help="folder to write; it must not exist")
    end.set_defaults(run=_export_end)

    coco = kinds.add_parser("coco", help="a fused system as COCO's panoptic server takes it")
    coco.add_argument("--system", required=True, help="one of fuse.systems; its maps are those of stage fuse")
    coco.add_argument("--split", required=True, help="the test set's name: val2017, test-dev2017, …")
    coco.add_argument("--algorithm", default="antvisionps", help="the name to compete under (%(default)s)")
    coco.add_argument("--to", type=Path, required=True, help="folder to write to; without --zip it must not exist")
    coco.add_argument("--zip", action="store_true", help="one zip, ready to be uploaded, in place of JSON and PNGs")
    coco.set_defaults(run=_export_coco)


def _export_end(args: argparse.Namespace) -> None:
    from antvisionps.interchange.import_end import export_end
    from antvisionps.panoptic.splits import dataset_fingerprint, open_split
    from antvisionps.pipeline.paths import read_pipeline_paths
    from antvisionps.predictions.schema import CacheIdentity

    paths = read_pipeline_paths(Path())
    dataset = open_split(paths.prepared, args.split)
    identity = CacheIdentity(args.end, args.split, dataset_fingerprint(paths.prepared), dataset.categories)
    export_end(paths.predictions / args.end / args.split, args.to, dataset=dataset, identity=identity)
    print(f"{len(dataset.images)} images of {args.end}, {args.split}, are in {args.to}")


def _export_coco(args: argparse.Namespace) -> None:
    from antvisionps.interchange.coco_submission import Submission
    from antvisionps.panoptic.coco_json import read_panoptic
    from antvisionps.pipeline.paths import read_pipeline_paths

    folder = read_pipeline_paths(Path()).fused / args.system
    maps = folder / "panoptic"
    # The photos are not needed: nothing of them goes to the server.
    fused = read_panoptic(folder / "panoptic.json", images_dir=maps, panoptic_dir=maps)
    submission = Submission(fused, test_set=args.split, algorithm=args.algorithm)
    written = submission.write_zip(args.to) if args.zip else submission.write_folder(args.to)
    print(f"{len(fused.images)} images of {args.system} are in {written}")
