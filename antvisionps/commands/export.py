"""`antvisionps export …`: what the pipeline has, as files that other tools and servers take."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction, project_root: Path) -> None:
    export = commands.add_parser("export", help="write predictions for other tools, or a submission to COCO's server")
    kinds = export.add_subparsers(required=True, metavar="KIND")

    end = kinds.add_parser("end", help="an end's cache as COCO results JSON and a npz of probabilities an image")
    end.add_argument("end", help="one of ends or import_end.ends")
    end.add_argument("--split", required=True, choices=("heldout", "val"))
    end.add_argument("--to", type=Path, required=True, help="folder to write; it must not exist")
    end.set_defaults(run=lambda args: _export_end(args, project_root))


def _export_end(args: argparse.Namespace, project_root: Path) -> None:
    from antvisionps.datasets.splits import dataset_fingerprint, open_split
    from antvisionps.interchange.ends import export_end
    from antvisionps.pipeline_paths import read_pipeline_paths
    from antvisionps.predictions.schema import CacheIdentity

    paths = read_pipeline_paths(project_root)
    dataset = open_split(paths.prepared, args.split)
    identity = CacheIdentity(args.end, args.split, dataset_fingerprint(paths.prepared), dataset.categories)
    export_end(paths.predictions / args.end / args.split, args.to, dataset=dataset, identity=identity)
    print(f"{len(dataset.images)} images of {args.end}, {args.split}, are in {args.to}")
