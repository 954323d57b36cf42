"""Training runs to be compared: same data, same budget, several settings and seeds; mean and spread of their PQ.

A trial runs the pipeline's own stage scripts in folders of its own: one for each end that it trains, one for what comes
after. Each is named by everything that its content depends on, so that whatever is finished is not run again, an
interrupted training goes on, and trials that fuse the same ends train them once.
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

PROJECT = Path(__file__).parents[1]
GROUPS = {"All": "PQ", "Things": "PQTh", "Stuff": "PQSt"}
FUSION = "fusion"

PqOfGroup = Mapping[str, float]


@dataclass(frozen=True)
class EndTraining:
    """One end, trained and predicted. `section` of the params describes its training; `commands` are run in that order,
    with {placeholders} for params, prepared, work, models and predictions."""

    end: str
    section: str
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trial:
    """Trained ends, and the systems to be scored on them: those of `rows`, under these names."""

    rows: Mapping[str, str]
    seed: int
    params: dict[str, Any]
    trainings: tuple[EndTraining, ...]


def end_trial(name: str, params: Mapping[str, Any], *, end: str, seed: int, network: Mapping[str, Any]) -> Trial:
    """One end alone, with the first of its networks in these params, changed by `network`."""
    document = single_end(params, end=end, seed=seed)
    section = document[section_of(end)]
    (section["networks"]["base"] if "networks" in section else section["network"]).update(network)
    return Trial({end: name}, seed, document, (end_training(document, end, splits=("val",)),))


def end_training(document: Mapping[str, Any], end: str, *, splits: Sequence[str]) -> EndTraining:
    """The pipeline's own stages `train_END` and `predict` of each split."""
    section = section_of(end)
    common = ("--params", "{params}", "--prepared", "{prepared}")
    member = ("--member", "base") if "members" in document[section] else ()
    train = (f"stages/{section}.py", *common, *member, "--work", "{work}", "--out", "{models}/base")
    predictions = [
        (
            "stages/predict.py", *common, "--end", end, "--split", split, "--models", "{models}",
            "--out", f"{{predictions}}/{end}/{split}",
        )
        for split in splits
    ]  # fmt: skip
    return EndTraining(end, section, (train, *predictions))


def section_of(end: str) -> str:
    return f"train_{end}"


def single_end(params: Mapping[str, Any], *, end: str, seed: int, section: str | None = None) -> dict[str, Any]:
    """The same params with this end alone, one member, the plain heuristic, and this seed of the training, which
    `section` describes (the end's own unless it has none)."""
    document = with_ends(one_member(params), [end])
    document[section or section_of(end)]["seed"] = seed
    document["fuse"] |= {"method": "heuristic", "methods": {}, "calibrated": False, "order": "score"}
    return document


def one_member(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same params with the first member alone of every ensemble, called base; of one that is off, the first
    network."""
    document = copy.deepcopy(dict(params))
    for section in document.values():
        if isinstance(section, dict) and "members" in section:
            network = section["networks"][
                section["members"][0] if section["members"] else next(iter(section["networks"]))
            ]
            section |= {"members": ["base"], "networks": {"base": network}}
    return document


def with_ends(document: Mapping[str, Any], ends: Sequence[str]) -> dict[str, Any]:
    """The same params of single members with these ends alone, all systems of them, and no pictures."""
    reduced = copy.deepcopy(dict(document))
    reduced["ends"] = list(ends)
    reduced["predict"] |= {"separate_ends": list(ends), "shared_backbone": [], "member_weights": {}}
    fuse = reduced["fuse"]
    fuse["systems"] = [*ends, FUSION] if len(ends) > 1 else list(ends)
    for exceptions in ("methods", "instance_weights", "semantic_weights"):
        fuse[exceptions] = {name: value for name, value in fuse[exceptions].items() if name in (*ends, FUSION)}
    reduced["score"]["overlay_images"] = 0
    return reduced


def run_trials(trials: Sequence[Trial], *, work_dir: Path) -> dict[str, list[PqOfGroup]]:
    """PQ of every row of the trials, one entry a seed, in the order given."""
    results: dict[str, list[PqOfGroup]] = {}
    for number, trial in enumerate(trials, start=1):
        print(f"[{number}/{len(trials)}] {', '.join(trial.rows.values())}, seed {trial.seed}", file=sys.stderr)
        for system, result in run_trial(trial, work_dir=work_dir).items():
            told = ", ".join(f"{name} {value:.2f}" for name, value in result.items())
            print(f"    {trial.rows[system]}: {told}", file=sys.stderr, flush=True)
            results.setdefault(trial.rows[system], []).append(result)
    return results


def run_trial(trial: Trial, *, work_dir: Path) -> dict[str, PqOfGroup]:
    """PQ of each of the trial's systems."""
    document = trial.params | {"fuse": trial.params["fuse"] | {"systems": list(trial.rows)}}
    prepared = prepare(document, work_dir=work_dir)
    trained = [run_training(training, document, prepared=prepared, work_dir=work_dir) for training in trial.trainings]
    text = json.dumps(document, sort_keys=True)
    folder = work_dir / "trials" / _digest(text, *(predictions.parent.name for predictions in trained))
    done = folder / "pq.json"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        predictions = folder / "predictions"
        predictions.mkdir(parents=True)
        for training, of_end in zip(trial.trainings, trained, strict=True):
            (predictions / training.end).symlink_to((of_end / training.end).resolve())
        (folder / "params.yaml").write_text(text, encoding="utf-8")  # JSON is YAML
        _fuse_and_score(folder, document["fuse"], prepared=prepared)
        summary = json.loads((folder / "metrics" / "panoptic.json").read_text())
        done.write_text(json.dumps({system: _pq_of_groups(summary[system]) for system in trial.rows}))
        for name in ("fused", "overlays"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return json.loads(done.read_text())


def run_training(training: EndTraining, document: Mapping[str, Any], *, prepared: Path, work_dir: Path) -> Path:
    """The folder of what this end predicts; a command that has ended well is not run again."""
    settings = {name: document[name] for name in (training.section, "predict")}
    settings["predict"] = settings["predict"] | {"separate_ends": None, "member_weights": None}
    key = _digest(json.dumps(settings, sort_keys=True), json.dumps(training.commands), prepared.name, _sources())
    folder = work_dir / "ends" / key
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "params": folder / "params.yaml",
        "prepared": prepared,
        "work": folder / "unfinished",
        "models": folder / "models",
        "predictions": folder / "predictions",
    }
    paths["params"].write_text(json.dumps(document, sort_keys=True), encoding="utf-8")
    for number, command in enumerate(training.commands):
        done = folder / f"done-{number}"
        if not done.exists():
            _run([part.format(**paths) for part in command])
            done.touch()
    return paths["predictions"]


def _fuse_and_score(folder: Path, fuse: Mapping[str, Any], *, prepared: Path) -> None:
    shared = ["--params", str(folder / "params.yaml"), "--prepared", str(prepared)]
    cached = [*shared, "--predictions", str(folder / "predictions")]
    fitted = []
    if FUSION in fuse["systems"] or _is_fitted(fuse):
        _run(["stages/evaluate_heldout.py", *cached, "--out", str(folder / "routing")])
        fitted += ["--routing", str(folder / "routing")]
    if _is_fitted(fuse):
        _run(["stages/calibrate.py", *cached, *fitted, "--out", str(folder / "calibration")])
        fitted += ["--calibration", str(folder / "calibration")]
    _run(["stages/fuse.py", *cached, *fitted, "--out", str(folder / "fused")])
    outs = ["--out", str(folder / "metrics"), "--overlays", str(folder / "overlays")]
    _run(["stages/score.py", *shared, "--fused", str(folder / "fused"), *outs])


def _is_fitted(fuse: Mapping[str, Any]) -> bool:
    return bool(fuse["calibrated"] or fuse["order"] == "learned")


def _pq_of_groups(summary: Mapping[str, Any]) -> PqOfGroup:
    return {name: summary[group]["PQ"] or 0.0 for group, name in GROUPS.items()}


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


def table(results: Mapping[str, Sequence[PqOfGroup]], *, gains: Mapping[str, Sequence[float]] | None = None) -> str:
    """A Markdown row a name: mean ± standard deviation over its seeds of PQ, PQTh and PQSt, then each seed's PQ.

    With `gains`, what a row is ahead of others in each seed, a last column with their mean ± standard deviation.
    """
    columns = [*GROUPS.values(), "PQ of each seed"] + (["gain over the better end"] if gains is not None else [])
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, of_seeds in results.items():
        cells = [_mean_and_spread([result[group] for result in of_seeds]) for group in GROUPS.values()]
        cells.append(", ".join(f"{result['PQ']:.1f}" for result in of_seeds))
        if gains is not None:
            cells.append(_mean_and_spread(gains[name], sign="+") if name in gains else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
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


def _mean_and_spread(values: Sequence[float], *, sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


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
