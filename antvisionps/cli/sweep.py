"""`antvisionps sweep …`: fusion parameters tried on the cached predictions, without a stage."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from antvisionps.core.errors import ParamsError

WARNING = (
    "val is what the scores are reported on: values picked here are tuned on the scoring data, and their PQ flatters. "
    "Pick on --split heldout."
)
FITTED = (
    "stage calibrate fitted some of these to the held-out images, where their PQ flatters beside the others'; "
    "data/calibration/SYSTEM.json has their cross-validated PQ."
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("sweep", help="try values of fusion parameters on the cached predictions")
    parser.add_argument(
        "sweeps",
        nargs="+",
        metavar="fuse.KEY=VALUE,VALUE,…",
        help="several keys: all combinations; one value only: fixed",
    )
    parser.add_argument("--system", default="fusion", help="an end, or fusion (default)")
    parser.add_argument("--split", choices=("heldout", "val"), default="heldout", help="scored on it (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="write a plot, too")
    parser.set_defaults(run=_sweep)


def _sweep(args: argparse.Namespace) -> None:
    from antvisionps.core.atomic import atomic_file, refuse_unwritable
    from antvisionps.parallel.images import open_workers
    from antvisionps.params.whole import load_params
    from antvisionps.pipeline.paths import read_pipeline_paths
    from antvisionps.pipeline.settings import system_settings
    from antvisionps.pipeline.sweep import best, grid, is_fitted, refuse_idle, refuse_unfitted, sweep
    from antvisionps.predictions.split_caches import SplitCaches
    from antvisionps.report.sweep_report import COLORS, sweep_rows, sweep_svg
    from antvisionps.report.tables import print_table

    paths = read_pipeline_paths(Path())
    if args.plot is not None:
        refuse_unwritable(args.plot)
    points = grid(parse_sweeps(args.sweeps))
    params_path = Path("params.yaml")
    variants = [load_params(params_path, changes=point) for point in points]
    refuse_unfitted(args.system, load_params(params_path), points, variants)
    caches = SplitCaches.open(paths.predictions, paths.prepared, args.split, promised=variants[0].promised_kinds())
    settings = [
        system_settings(
            args.system,
            params,
            categories=caches.dataset.categories,
            routing=paths.routing,
            calibration=paths.calibration,
        )
        for params in variants
    ]
    refuse_idle(points, variants, settings)
    with open_workers(**variants[0].runtime.worker_arguments()) as workers:
        pq = sweep(settings, caches, workers=workers)
    place = best(pq)
    title = f"{args.system} on {args.split}, percent"
    print_table(title, sweep_rows(points, pq, best=place), dict.fromkeys(COLORS, ".2f"))
    if args.plot is not None:
        with atomic_file(args.plot) as unfinished:
            unfinished.write_text(sweep_svg(points, pq, best=place, title=title), encoding="utf-8")
    if args.split == "val":
        print(f"warning: {WARNING}")
    elif len({is_fitted(args.system, params) for params in variants}) > 1:
        print(f"warning: {FITTED}")
    print(experiment_line(points[place]))


def parse_sweeps(sweeps: Sequence[str]) -> dict[str, list[object]]:
    """Key → values of `fuse.key=value,value`, as YAML 1.2 reads them. Raises ParamsError on anything else."""
    from antvisionps.params.section import parse

    values_of_key: dict[str, list[object]] = {}
    for text in sweeps:
        key, separator, values = text.partition("=")
        if not separator or not key.startswith("fuse.") or key in values_of_key:
            raise ParamsError(
                f"{text}: expected fuse.KEY=VALUE,VALUE,… with each key once; other sections than fuse need their "
                "stages run again, by `dvc exp run -S`"
            )
        values_of_key[key] = parse(text, f"[{values}]")
    return values_of_key


def experiment_line(point: Mapping[str, object]) -> str:
    """The command that runs the stages with these values."""
    from antvisionps.params.overrides import overrides

    words, unwritable = ["dvc", "exp", "run"], []
    for key, value in point.items():
        try:
            words += [word for change in overrides(key, value) for word in ("-S", change)]
        except ValueError:
            unwritable.append(f"{key}: {value}")
    comment = f"  # after writing into params.yaml {', '.join(unwritable)}" if unwritable else ""
    return shlex.join(words) + comment
