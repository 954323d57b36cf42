"""What stage `report` does: the page that shows every number and every image of the val split in a browser."""

from pathlib import Path

from antvisionps.fusion.system import load_kernels
from antvisionps.parallel.images import open_workers
from antvisionps.params.whole import Params
from antvisionps.pipeline.settings import system_settings
from antvisionps.predictions.fused_files import open_fused
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.image_data import ReportSources
from antvisionps.report.page import PhotoSizes, write_report
from antvisionps.report.provenance import provenance


def photo_sizes(params: Params) -> PhotoSizes:
    section = params.report
    return PhotoSizes(section.photo_long_side_px, section.thumbnail_long_side_px, section.photo_quality)


def report(
    params: Params,
    *,
    prepared: Path,
    models: Path,
    predictions: Path,
    routing: Path,
    calibration: Path,
    fused: Path,
    metrics: Path,
    out: Path,
) -> None:
    """Writes the page to OUT. It opens with the last of fuse.systems."""
    load_kernels()
    caches = SplitCaches.open(predictions, prepared, "val", promised=params.promised_kinds())
    truth = caches.dataset
    systems = {name: open_fused(fused / name, truth) for name in params.fuse.systems}
    settings = system_settings(
        params.fuse.systems[-1], params, categories=truth.categories, routing=routing, calibration=calibration
    )
    with open_workers(**params.runtime.worker_arguments()) as workers:
        write_report(
            out,
            ReportSources(truth=truth, fused=systems, caches=caches, ends=params.all_ends),
            metrics=metrics,
            routing=routing,
            models=models,
            min_score=min([settings.rules.min_score, *settings.rules.min_scores.values()]),
            sizes=photo_sizes(params),
            provenance=provenance(caches, params.all_ends),
            workers=workers,
        )
