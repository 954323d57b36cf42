"""Training runs to be compared: same data, same budget, several settings and seeds; mean and spread of their PQ.

A trial runs the pipeline's own stage scripts in a folder of its own. Its folder is named by everything that its result
depends on, so that whatever is finished is not run again, and an interrupted training goes on.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).parents[1]
GROUPS = {"All": "PQ", "Things": "PQTh", "Stuff": "PQSt"}

PqOfGroup = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One training. `end` is what the cache is called; `train_and_predict` are commands to run, with {placeholders}
    for params, prepared, work, models and predictions."""

    name: str
    seed: int
    end: str
    params: dict[str, Any]
    train_and_predict: tuple[tuple[str, ...], ...]


E_UPS_COMMANDS = (
    (
        "stages/train_e_ups.py", "--params", "{params}", "--member", "base", "--prepared", "{prepared}",
        "--work", "{work}", "--out", "{models}/base",
    ),
    (
        "stages/predict.py", "--params", "{params}", "--end", "e_ups", "--split", "val", "--prepared", "{prepared}",
        "--models", "{models}", "--out", "{predictions}/e_ups/val",
    ),
)  # fmt: skip


def e_ups_trial(name: str, params: Mapping[str, Any], *, seed: int, network: Mapping[str, Any]) -> Trial:
    """E-UPS with the first network of these params, changed by `network`."""
    document = single_end(params, end="e_ups", seed=seed)
    document["train_e_ups"]["networks"]["base"] |= network
    return Trial(name, seed, "e_ups", document, E_UPS_COMMANDS)


def single_end(params: Mapping[str, Any], *, end: str, seed: int) -> dict[str, Any]:
    """The same params with this end alone, one member, and this seed of the training."""
    document = copy.deepcopy(dict(params))
    section = document["train_e_ups"]
    network = section["networks"][section["members"][0]]
    document["train_e_ups"] = section | {"members": ["base"], "networks": {"base": network}, "seed": seed}
    document["ends"] = [end]
    document["predict"]["member_weights"] = {end: {"base": 1.0}}
    methods = {end: "heuristic", "fusion": "heuristic"}
    document["fuse"] |= {"systems": [end], "semantic_weights": {end: 1.0}, "method": methods, "calibrated": False}
    document["score"]["overlay_images"] = 0
    return document


def read_document(path: Path) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def run_trials(trials: Sequence[Trial], *, work_dir: Path) -> dict[str, list[PqOfGroup]]:
    """PQ of every trial by name, one entry a seed, in the order given."""
    results: dict[str, list[PqOfGroup]] = {}
    for number, trial in enumerate(trials, start=1):
        print(f"[{number}/{len(trials)}] {trial.name}, seed {trial.seed}", file=sys.stderr, flush=True)
        result = run_trial(trial, work_dir=work_dir)
        print("    " + ", ".join(f"{name} {value:.2f}" for name, value in result.items()), file=sys.stderr, flush=True)
        results.setdefault(trial.name, []).append(result)
    return results


def run_trial(trial: Trial, *, work_dir: Path) -> PqOfGroup:
    prepared = prepare(trial.params, work_dir=work_dir)
    document = json.dumps(trial.params, sort_keys=True)
    folder = work_dir / "trials" / _digest(document, json.dumps(trial.train_and_predict), prepared.name, _sources())
    done = folder / "pq.json"
    if done.exists():
        return json.loads(done.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "params": folder / "params.yaml",
        "prepared": prepared,
        "work": folder / "unfinished",
        "models": folder / "models",
        "predictions": folder / "predictions",
    }
    paths["params"].write_text(document, encoding="utf-8")  # JSON is YAML
    for command in trial.train_and_predict:
        _run([part.format(**paths) for part in command])
    shared = ["--params", str(paths["params"]), "--prepared", str(prepared)]
    fused = folder / "fused" / trial.end
    predictions = str(paths["predictions"])
    _run(["stages/fuse.py", *shared, "--system", trial.end, "--predictions", predictions, "--out", str(fused)])
    scored = ["--fused", str(fused.parent), "--out", str(folder / "metrics"), "--overlays", str(folder / "overlays")]
    _run(["stages/score.py", *shared, *scored])
    summary = json.loads((folder / "metrics" / "panoptic.json").read_text())[trial.end]
    result = {name: summary[group]["PQ"] or 0.0 for group, name in GROUPS.items()}
    for name in ("predictions", "fused", "overlays"):
        shutil.rmtree(folder / name, ignore_errors=True)
    done.write_text(json.dumps(result))
    return result


def prepare(params: Mapping[str, Any], *, work_dir: Path) -> Path:
    """The folder that stage prepare wrote for these params."""
    document = json.dumps(params, sort_keys=True)
    folder = work_dir / f"prepared-{_digest(json.dumps(params['prepare'], sort_keys=True))}"
    if not folder.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        written = work_dir / "prepare.yaml"
        written.write_text(document, encoding="utf-8")
        _run(["stages/prepare.py", "--params", str(written), "--out", str(folder)])
    return folder


def table(results: Mapping[str, Sequence[PqOfGroup]]) -> str:
    """A Markdown row a name: mean ± standard deviation over its seeds of PQ, PQTh and PQSt, then each seed's PQ."""
    lines = ["| | " + " | ".join(GROUPS.values()) + " | PQ of each seed |", "|---|" + "---|" * (len(GROUPS) + 1)]
    for name, of_seeds in results.items():
        cells = [_mean_and_spread([result[group] for result in of_seeds]) for group in GROUPS.values()]
        seeds = ", ".join(f"{result['PQ']:.1f}" for result in of_seeds)
        lines.append(f"| {name} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def replace_section(path: Path, heading: str, body: str) -> None:
    """Writes `body` under `## heading` of a Markdown file; other sections stay."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {path.stem.capitalize()}\n"
    section = f"## {heading}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda match: section + ("\n" if match.end() < len(text) else ""), text)
    else:
        text = f"{text.rstrip()}\n\n{section}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _mean_and_spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _run(command: Sequence[str]) -> None:
    """A stage script, or `-m module`, by this Python; its error ends this program too."""
    ran = subprocess.run([sys.executable, *command], cwd=PROJECT, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {ran.returncode}")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _sources() -> str:
    """A checksum of all code that a trial runs."""
    files = [path for folder in ("antvisionps", "stages") for path in sorted((PROJECT / folder).rglob("*.py"))]
    digest = hashlib.sha256()
    for path in [*files, PROJECT / "benchmarks" / "stock_panoptic_fpn.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
