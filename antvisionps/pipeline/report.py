"""What stage `report` does: the page that shows every number and every image of the val split in a browser."""

from pathlib import Path

from antvisionps.fusion.system import load_kernels
from antvisionps.panoptic.categories import CategorySet
from antvisionps.panoptic.slices import read_slices
from antvisionps.parallel.images import open_workers
from antvisionps.params.whole import Params
from antvisionps.pipeline.settings import read_system_voting, system_settings
from antvisionps.predictions.fused_files import open_fused
from antvisionps.predictions.split_caches import SplitCaches
from antvisionps.report.image_data import ReportSources
from antvisionps.report.page import PhotoSizes, write_report
from antvisionps.report.provenance import provenance


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
    scores: Path,
    out: Path,
) -> None:
    """Writes the page to OUT. It opens with the last of fuse.systems."""
    load_kernels()
    caches = SplitCaches.open(predictions, prepared, "val", promised=params.promised_kinds())
    truth = caches.dataset
    systems = {name: open_fused(fused / name, truth) for name in params.fuse.systems}
    shown_first = params.fuse.systems[-1]
    settings = system_settings(
        shown_first, params, categories=truth.categories, routing=routing, calibration=calibration
    )
    with open_workers(**params.runtime.worker_arguments()) as workers:
        write_report(
            out,
            ReportSources(truth=truth, fused=systems, caches=caches, ends=params.all_ends),
            metrics=metrics,
            scores=scores,
            routing=routing,
            models=models,
            members={end: tuple(params.weight_of_member(end)) for end in params.ends},
            choice=_choice_of_ends(shown_first, params, truth.categories, calibration),
            min_score=min([settings.rules.min_score, *settings.rules.min_scores.values()]),
            sizes=PhotoSizes(**params.report.model_dump()),
            slices=read_slices(Path(params.score.slices), truth.images) if params.score.slices else {},
            provenance=provenance(caches, params.all_ends),
            workers=workers,
        )


def _choice_of_ends(
    system: str, params: Params, categories: CategorySet, calibration: Path
) -> dict[str, object] | None:
    """What the page shows of method auto, if it had a choice."""
    if params.fuse.method_of(system) != "auto" or system in params.all_ends:
        return None
    found = read_system_voting(system, params, categories=categories, calibration=calibration)
    choices = [one.model_dump() for one in found.choices]
    return {"system": system, "taken": found.ends, "paste_by": found.acceptance.paste_by, "choices": choices}
