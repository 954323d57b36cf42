"""Stage `report`: the page that shows every number and every image of the val split in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from antvisionps.datasets.splits import dataset_fingerprint, open_split
from antvisionps.fusion.fused_files import open_fused
from antvisionps.fusion.system import FusionSettings
from antvisionps.parallel import open_workers
from antvisionps.params import load_params
from antvisionps.predictions.ends import SplitCaches
from antvisionps.report.image_data import ReportSources
from antvisionps.report.page import write_report
from antvisionps.stage import run_stage
from antvisionps.systems import fused_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--prepared", type=Path, required=True, help="what stage prepare wrote")
    parser.add_argument("--models", type=Path, required=True, help="folder of all ends' trained networks")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of all ends' caches")
    parser.add_argument("--routing", type=Path, required=True, help="what stage evaluate_heldout wrote")
    parser.add_argument("--calibration", type=Path, help="what stage calibrate wrote; as for stage fuse")
    parser.add_argument("--fused", type=Path, required=True, help="folder of all systems' fused maps")
    parser.add_argument("--metrics", type=Path, required=True, help="folder that stage score wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page to write, replaced whole")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    truth = open_split(arguments.prepared, "val")
    sources = ReportSources(
        truth=truth,
        fused={name: open_fused(arguments.fused / name, truth) for name in params.fuse.systems},
        fused_dir=arguments.fused,
        caches=SplitCaches(arguments.predictions, "val", dataset_fingerprint(arguments.prepared), truth),
        ends=params.all_ends,
    )
    shown_first = params.fuse.systems[-1]
    settings = fused_settings(
        shown_first,
        ends=params.all_ends,
        categories=truth.categories,
        routing_dir=arguments.routing,
        calibration_dir=arguments.calibration,
        **params.fuse.keyword_arguments(shown_first),
    )
    with open_workers(**params.runtime.worker_arguments()) as workers:
        write_report(
            arguments.out,
            sources,
            metrics=arguments.metrics,
            routing=arguments.routing,
            models=arguments.models,
            min_score=lowest_min_score(settings),
            photo_long_side_px=params.report.photo_long_side_px,
            thumbnail_long_side_px=params.report.thumbnail_long_side_px,
            photo_quality=params.report.photo_quality,
            workers=workers,
        )


def lowest_min_score(settings: FusionSettings) -> float:
    """What no instance in the system's maps scores less than, of whatever class."""
    return min([settings.rules.min_score, *settings.rules.min_scores.values()])


if __name__ == "__main__":
    run_stage(main)
