"""E-UPS beside mmdet's own Panoptic FPN, and LWL-HTC beside its HTC: same backbone, pictures, iterations and heuristic.

    python -m benchmarks.compare_mmdet                                    # params.yaml's data
    python -m benchmarks.compare_mmdet --params profiles/street.yaml      # real photos

Our ends are trained by DVC experiments, as by `antvisionps table`, mmdet's below --work, at each of the rates that
--stock-rates lists; of them the best counts. What is finished is kept, so this may be interrupted. The table goes into
docs/ablations.md.
"""

import argparse
import copy
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

PROGRAM = Path(__file__).with_name("stock_mmdet.py")
TITLE = "Beside mmdet's networks"
STOCK = {"e_ups": "Panoptic FPN", "lwl_htc": "HTC"}
PLAIN = ("fuse.method=heuristic", "fuse.calibrated=false", "fuse.order=score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1, 2, 3])
    parser.add_argument("--stock-rates", type=float, nargs="+", default=[1e-3, 3e-3], metavar="RATE")
    parser.add_argument("--work", type=Path, default=Path("data/stock_mmdet"))
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    args = parser.parse_args()
    params = load_params(args.params)
    changes = (*only_member(params.train_e_ups.members[0], params), *PLAIN)
    ours = [
        Row("E-UPS", "e-ups", ("e_ups",), changes, "e_ups"),
        Row("LWL-HTC", "lwl-htc", ("lwl_htc",), PLAIN, "lwl_htc"),
    ]
    with open_clone(Path(), args.clone) as clone:
        plan = plan_table(Table(TITLE, ours), clone, profile=args.params, seeds=args.seeds, changes=args.set_param)
        if failures := [failure for failure in run_missing([plan], clone) if failure]:
            raise AntVisionPSError("\n".join(failures))
        results = plan.results(clone)
    rows = []
    for result, experiments in zip(results, plan.experiments, strict=True):
        end = result.row.system
        for rate in args.stock_rates:
            summaries = [run_stock(experiment, args.work, end=end, rate=rate) for experiment in experiments]
            row = replace(result.row, name=f"mmdet {STOCK[end]}, rate {rate:g}")
            rows.append(Result(row, [NONE] * len(summaries), summaries))
        rows.append(result)
    plan.write(args.out, rows, ["python", "-m", "benchmarks.compare_mmdet", *option_words(args)])
    print(f"written: {args.out}")


def run_stock(experiment: Experiment, work: Path, *, end: str, rate: float) -> dict[str, Any]:
    """metrics/panoptic.json of mmdet's network with the params of an experiment of ours; none runs twice."""
    params = experiment.params
    folder = work / f"{experiment.name}-{rate:g}-{hashlib.sha256(PROGRAM.read_bytes()).hexdigest()[:7]}"
    metrics = folder / "metrics"
    if not metrics.exists():
        print(f"mmdet {STOCK[end]}: {folder}", file=sys.stderr, flush=True)
        prepared, predictions = folder / "prepared", folder / "predictions"
        if not prepared.exists():
            prepare(params.prepare, out=prepared, workers=params.runtime.workers)
        document = copy.deepcopy(experiment.document)
        document[f"train_{end}"]["optimizer"]["learning_rate"] = rate
        (folder / "params.yaml").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
        places = {"params": folder / "params.yaml", "prepared": prepared, "work": folder / "unfinished"}
        places |= {"models": folder / "models", "predictions": predictions}
        options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
        subprocess.run([sys.executable, "-m", "benchmarks.stock_mmdet", "--end", end, *options], check=True)
        unread = {"routing": folder / "routing", "calibration": folder / "calibration"}
        inputs = {"prepared": prepared, "predictions": predictions, **unread}
        fuse_systems(params, **inputs, out=folder / "fused")
        score(params, **inputs, fused=folder / "fused", out=metrics, scores=folder / "scores", with_budget=False)
    return json.loads((metrics / "panoptic.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_stage(main)
