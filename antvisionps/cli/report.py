"""`antvisionps report RUN RUN …`: one page of several runs, each scored against the first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from antvisionps.core.errors import CacheError, DataError
from antvisionps.core.extras import needs_extra

if TYPE_CHECKING:
    from antvisionps.inspection.runs import RunFiles
    from antvisionps.panoptic.dataset import PanopticDataset
    from antvisionps.report.comparison import ComparedRun

DESCRIPTION = (
    "Writes a page that compares runs on the same images: PQ with 95 % intervals of each and of their differences, "
    "the params that differ from the first, the images by their change of PQ, and the maps beside each other where "
    "they are at hand. Runs of revisions come out of DVC's cache."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="compare runs on one page", description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a DVC experiment, a commit, or the folder of a project")
    parser.add_argument("--system", help="an end, or fusion (default: the last of each run's fuse.systems)")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="the page's folder (default: %(default)s)")
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> None:
    from antvisionps.core.atomic import refuse_other_files
    from antvisionps.evaluation.bootstrap import draw_images
    from antvisionps.inspection.runs import opened_runs
    from antvisionps.panoptic.splits import dataset_fingerprint, open_split
    from antvisionps.params.whole import load_params
    from antvisionps.pipeline.paths import read_pipeline_paths
    from antvisionps.report.comparison import write_comparison
    from antvisionps.report.page import PhotoSizes, names_of_page
    from antvisionps.report.provenance import package_versions

    refuse_other_files(args.out, names=names_of_page())
    params = load_params(Path("params.yaml"))
    prepared = read_pipeline_paths(Path()).prepared
    truth = open_split(prepared, "val")
    draws = draw_images(len(truth.images), samples=params.score.bootstrap_samples, seed=params.score.seed)
    with needs_extra("pipeline"), opened_runs(args.runs, project=Path(), system=args.system) as runs:
        write_comparison(
            args.out,
            [_compared(run, runs, truth) for run in runs],
            truth,
            draws=draws,
            sizes=PhotoSizes(**params.report.model_dump()),
            provenance={"dataset": dataset_fingerprint(prepared), "weights": {}, "versions": package_versions()},
            workers=params.runtime.workers,  # here: no other machine has what comes out of a revision
        )
    print(f"written: {args.out / 'index.html'}")


def _compared(run: RunFiles, runs: Sequence[RunFiles], truth: PanopticDataset) -> ComparedRun:
    from antvisionps.params.changes import param_changes
    from antvisionps.params.section import parse
    from antvisionps.report.comparison import ComparedRun

    first = runs[0]
    own, base = (parse(f"params.yaml of {of.name}", of.params) for of in (run, first))
    facts: dict[str, str | list[str]] = {"system": run.system}
    if run.commit is not None:
        facts["commit"] = run.commit
    maps = _maps(run, truth)
    if maps is None:
        facts["maps"] = "not at hand"
    if run is not first:
        facts["params"] = param_changes(own, base) or ["as the first"]
    return ComparedRun(run.name, run.counts, maps, facts)


def _maps(run: RunFiles, truth: PanopticDataset) -> PanopticDataset | None:
    """None, with a warning, where they are of another version or damaged: the numbers are compared all the same."""
    from antvisionps.predictions.fused_files import CANDIDATES, SEGMENTS, RowsByImage, open_fused

    if run.fused is None:
        return None
    try:
        fused = open_fused(run.fused, truth)
        for table in (SEGMENTS, CANDIDATES):
            RowsByImage(run.fused, table, fused)
    except (CacheError, DataError) as error:
        print(f"warning: run {run.name} is shown without its maps: {error}", file=sys.stderr)
        return None
    return fused
