"""`antvisionps download …`: public data sets, laid out as `prepare` reads them."""

import argparse
from pathlib import Path

COCO_PARTS = ("panoptic", "instances", "val2017", "train2017")


def add_parser(commands: argparse._SubParsersAction) -> None:
    download = commands.add_parser("download", help="fetch a public data set; run again, it goes on where it was")
    data_sets = download.add_subparsers(required=True, metavar="DATA_SET")
    coco = data_sets.add_parser("coco", help="COCO 2017: photos, panoptic annotations and train's instances, 21 GB")
    coco.add_argument("--to", type=Path, required=True, help="folder; profiles/coco_paper.yaml reads data/coco")
    coco.add_argument("--only", nargs="+", choices=COCO_PARTS, default=list(COCO_PARTS), metavar="PART")
    coco.add_argument("--mirror", help="another server with COCO's paths, in place of images.cocodataset.org")
    coco.set_defaults(run=_download_coco)


def _download_coco(args: argparse.Namespace) -> None:
    from antvisionps.datasets.coco import SERVER, download_coco

    download_coco(args.to, names=args.only, server=(args.mirror or SERVER).rstrip("/"))
    print(f"{', '.join(args.only)} in {args.to}; `antvisionps use profiles/coco_paper.yaml` reads data/coco")
