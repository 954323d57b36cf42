"""E-UPS beside mmdet's own Panoptic FPN: same backbone, pictures, iterations, optimiser and heuristic.

    python -m benchmarks.compare_panoptic_fpn                                     # params.yaml's data
    python -m benchmarks.compare_panoptic_fpn --params profiles/facades.yaml      # real photos

E-UPS is trained by DVC experiments, as by `antvisionps table`, and Panoptic FPN below --work. What is finished is kept,
so this may be interrupted. The table goes into docs/ablations.md.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from antvisionps.core.errors import AntVisionPSError
from antvisionps.core.stage import run_stage
from antvisionps.experiments.dvc_experiments import Experiment, open_clone
from antvisionps.experiments.markdown import NONE, Result
from antvisionps.experiments.options import add_options, option_words
from antvisionps.experiments.run_tables import plan_table, run_missing
from antvisionps.experiments.tables import Row, Table, only_member
from antvisionps.params.whole import load_params
from antvisionps.pipeline.fuse import fuse_systems
from antvisionps.pipeline.prepare import prepare
from antvisionps.pipeline.score import score

STOCK = Path(__file__).with_name("stock_panoptic_fpn.py")
PLAIN = ("fuse.calibrated=false", "fuse.order=score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("data/panoptic_fpn"))
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    args = parser.parse_args()
    params = load_params(args.params)
    changes = (*only_member(params.train_e_ups.members[0], params), *PLAIN)
    row = Row("E-UPS", "e-ups", ("e_ups",), changes, "e_ups")
    with open_clone(Path(), args.clone) as clone:
        table = Table("E-UPS and mmdet's Panoptic FPN", [row])
        plan = plan_table(table, clone, profile=args.params, seeds=args.seeds, changes=args.set_param)
        if failures := [failure for failure in run_missing([plan], clone) if failure]:
            raise AntVisionPSError("\n".join(failures))
        (e_ups,) = plan.results(clone)
    summaries = [run_stock(experiment, args.work) for experiment in plan.experiments[0]]
    stock = Result(replace(row, name="mmdet Panoptic FPN"), [NONE] * len(summaries), summaries)
    plan.write(args.out, [stock, e_ups], ["python", "-m", "benchmarks.compare_panoptic_fpn", *option_words(args)])
    print(f"written: {args.out}")


def run_stock(experiment: Experiment, work: Path) -> dict[str, Any]:
    """metrics/panoptic.json of Panoptic FPN with the params of an experiment of E-UPS; none runs twice."""
    params = experiment.params
    folder = work / f"{experiment.name}-{hashlib.sha256(STOCK.read_bytes()).hexdigest()[:7]}"
    metrics = folder / "metrics"
    if not metrics.exists():
        print(f"Panoptic FPN: {folder}", file=sys.stderr, flush=True)
        prepared, predictions = folder / "prepared", folder / "predictions"
        if not prepared.exists():
            prepare(params.prepare, out=prepared, workers=params.runtime.workers)
        (folder / "params.yaml").write_text(json.dumps(experiment.document), encoding="utf-8")  # JSON is YAML
        places = {"params": folder / "params.yaml", "prepared": prepared, "work": folder / "unfinished"}
        places |= {"models": folder / "models", "predictions": predictions}
        options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
        subprocess.run([sys.executable, "-m", "benchmarks.stock_panoptic_fpn", *options], check=True)
        unread = {"routing": folder / "routing", "calibration": folder / "calibration"}
        inputs = {"prepared": prepared, "predictions": predictions, **unread}
        fuse_systems(params, **inputs, out=folder / "fused")
        score(params, **inputs, fused=folder / "fused", out=metrics, overlays=folder / "overlays", with_budget=False)
    return json.loads((metrics / "panoptic.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_stage(main)
