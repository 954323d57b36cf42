"""Kills every stage and `dvc repro` at random moments, begins them again, and compares what they end in, byte by byte,
with a run that nobody disturbed. Looks for processes, unfinished files and locks that stay behind.

    python -m tests.kills                       # 45 kills, 7 minutes on two idle cores
    python -m tests.kills --seed 7 --rounds 9   # others, and more of them

Prints a line a stage; exit status 1 where anything differs or stays. Everything lies in a temporary folder.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
from ruamel.yaml import YAML

from antvisionps.interchange.import_end import export_end
from antvisionps.panoptic.splits import dataset_fingerprint, open_split
from antvisionps.predictions.schema import CacheIdentity
from tests.dvc_project import checksums, commit, copy_project, environment

PREPARED = "--prepared data/prepared"
UNFINISHED = "--work data/unfinished/predictions"
CACHED = f"{PREPARED} --predictions data/predictions --routing data/routing"
FUSED = f"{CACHED} --calibration data/calibration --fused data/fused"
LONGEST_S = 300
"""What takes longer hangs."""


class Stage(NamedTuple):
    name: str
    options: str
    outs: tuple[str, ...]


def training(end: str) -> Stage:
    out = f"data/models/{end}/base"
    return Stage(f"train_{end}", f"--member base {PREPARED} --work data/unfinished/{end}/base --out {out}", (out,))


def prediction(*ends: str) -> Stage:
    places = f"{PREPARED} --models data/models {UNFINISHED} --predictions data/predictions"
    return Stage("predict", f"--ends {' '.join(ends)} {places}", tuple(f"data/predictions/{end}" for end in ends))


STAGES = (
    Stage("prepare", "--out data/prepared", ("data/prepared",)),
    training("e_ups"),
    training("lwl_htc"),
    training("hrnet_aspp"),
    prediction("e_ups", "lwl_htc"),
    prediction("hrnet_aspp"),
    Stage(
        "import_end",
        f"--end mine --split val {PREPARED} --files exported --out imported/mine/val",
        ("imported/mine/val",),
    ),
    Stage("evaluate_heldout", f"{PREPARED} --predictions data/predictions --out data/routing", ("data/routing",)),
    Stage("calibrate", f"{CACHED} --out data/calibration", ("data/calibration",)),
    Stage("fuse", f"{CACHED} --calibration data/calibration --out data/fused", ("data/fused",)),
    Stage("score", f"{FUSED} --out metrics --scores data/scores", ("metrics", "data/scores")),
    Stage("report", f"{FUSED} --models data/models --metrics metrics --scores data/scores --out report", ("report",)),
)
OUTS_OF_DVC = ("data", "metrics", "report")

WAYS = {
    "KILL all": (signal.SIGKILL, True),
    "KILL one": (signal.SIGKILL, False),
    "TERM one": (signal.SIGTERM, False),
    "INT all": (signal.SIGINT, True),
}
"""The signal, and whether the whole process group gets it or the first process alone."""


@dataclass
class Seen:
    """What killing a stage showed."""

    what: str
    kills: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = "; ".join(self.problems) or "same bytes, nothing left"
        return f"{self.what:18}{len(self.kills):3} kills  {verdict}  ({', '.join(self.kills)})"


class Project:
    """A copy of the project in which stages are run, timed and killed."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.folder = copy_project(root / "project")
        self._scratch = root / "scratch"
        self._scratch.mkdir()
        self._rng = rng
        self._shown = (root / "output.txt").open("w+", encoding="utf-8")
        shrink_further(self.folder / "params.yaml")
        commit(self.folder)

    def start(self, command: Sequence[str]) -> subprocess.Popen:
        shown = {"stdout": self._shown, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment() | {"TMPDIR": str(self._scratch)}, **shown)

    def finish(self, command: Sequence[str]) -> float:
        """Runs it to its end; returns the seconds."""
        began = time.monotonic()
        status = self.start(command).wait(timeout=LONGEST_S)
        if status:
            self._shown.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {status}:\n{self._shown.read()[-3000:]}")
        return time.monotonic() - began

    def kill(self, command: Sequence[str], seen: Seen, *, way: str, after_s: float) -> bool:
        """Whether it was still running after so many seconds, and so was killed."""
        running = self.start(command)
        try:
            running.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            number, whole_group = WAYS[way]
            (os.killpg if whole_group else os.kill)(running.pid, number)
            if running.wait(timeout=LONGEST_S) != 0:  # else it had just done its work
                seen.kills.append(f"{way} at {after_s:.1f} s")
        return running.returncode != 0

    def others(self, *, patience_s: float) -> list[str]:
        """Processes that still work in the folder after that time."""
        give_up = time.monotonic() + patience_s
        while (found := self._processes()) and time.monotonic() < give_up:
            time.sleep(0.1)
        return found

    def _processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(f"process {process.pid} {' '.join(process.cmdline()[:3])}")
            except (psutil.Error, OSError):
                continue
        return found

    def leftovers(self) -> list[str]:
        """Names of what no finished run leaves, but for torch's cache and the empty folders that Python makes for the
        sockets of worker processes: the system clears them away."""
        found = [*self.folder.rglob(".*.unfinished*"), *self.folder.glob(".work-*")]
        found += [path for path in self._scratch.rglob("*") if path.is_file() and "torchinductor" not in path.parts[-2]]
        found += [path for path in (self.folder / "data" / "unfinished").rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self.folder.parent)) for path in found)

    def contents(self, outs: Sequence[str]) -> dict[str, str]:
        """Checksums of all files; DVC's lists of what git ignores lie among them."""
        found = {f"{out}/{name}": sha for out in outs for name, sha in checksums(self.folder / out).items()}
        return {name: sha for name, sha in found.items() if not name.endswith(".gitignore")}

    def remove(self, outs: Sequence[str]) -> None:
        for out in outs:
            shutil.rmtree(self.folder / out, ignore_errors=True)

    def moment(self, whole_s: float) -> float:
        return self._rng.uniform(0.1, 0.95) * whole_s

    def way(self) -> str:
        return self._rng.choice([*WAYS, "KILL all"])


def shrink_further(path: Path) -> None:
    """Three ends, of which two share a frozen backbone, and worker processes."""
    yaml = YAML()
    params = yaml.load(path)
    params["predict"] |= {"separate_ends": ["hrnet_aspp"], "shared_backbone": [{"first": "e_ups", "second": "lwl_htc"}]}
    for network in (params["train_e_ups"]["networks"]["base"], params["train_lwl_htc"]["networks"]["base"]):
        network["backbone"] |= {"frozen_stages": 4, "frozen_norm": True}
    params["runtime"] |= {"workers": 2, "loader_workers": 1}
    yaml.dump(params, path)


def command_of(stage: Stage) -> list[str]:
    return [sys.executable, f"stages/{stage.name}.py", *stage.options.split()]


def export_predictions(project: Project) -> None:
    """What stage import_end is given."""
    data = project.folder / "data"
    dataset = open_split(data / "prepared", "val")
    identity = CacheIdentity("e_ups", "val", dataset_fingerprint(data / "prepared"), dataset.categories)
    cache = data / "predictions" / "e_ups" / "val"
    export_end(cache, project.folder / "exported", dataset=dataset, identity=identity)


def kill_stage(project: Project, stage: Stage, *, whole_s: float, rounds: int) -> Seen:
    """Several kills in a row, then a run to the end."""
    seen = Seen(stage.name)
    expected = project.contents(stage.outs)
    project.remove(stage.outs)
    while len(seen.kills) < rounds:
        way = project.way()
        if not project.kill(command_of(stage), seen, way=way, after_s=project.moment(whole_s)):
            whole_s *= 0.8  # it runs faster than when it was timed
            project.remove(stage.outs)
        seen.problems += project.others(patience_s=10)
    project.finish(command_of(stage))
    return judge(project, seen, expected, stage.outs)


def kill_dvc(project: Project, *, whole_s: float, rounds: int) -> Seen:
    """Kills of one `dvc repro` after another, each of which goes on where the last was."""
    seen = Seen("dvc repro")
    command = [sys.executable, "-m", "dvc", "repro"]
    expected = project.contents(OUTS_OF_DVC)
    project.remove(OUTS_OF_DVC)
    for _ in range(rounds):
        way = project.way()
        if not project.kill(command, seen, way=way, after_s=project.moment(whole_s / rounds) + 2.0):
            break
        # The stage of a DVC that was killed alone goes on to its end; until then the next one says that it is busy.
        seen.problems += project.others(patience_s=10 if "all" in way else LONGEST_S)
    project.finish(command)
    rwlock = (
        project.folder / ".dvc" / "tmp" / "rwlock"
    ).read_text()  # DVC drops the dead only where they are in its way
    holders = {int(number) for number in re.findall(r'"pid": (\d+)', rwlock)}
    seen.problems += [f"DVC's rwlock is held by process {pid}" for pid in holders if psutil.pid_exists(pid)]
    return judge(project, seen, expected, OUTS_OF_DVC)


def judge(project: Project, seen: Seen, expected: dict[str, str], outs: Sequence[str]) -> Seen:
    found = project.contents(outs)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    seen.problems += [f"other bytes: {name}" for name in different]
    seen.problems += [f"left: {name}" for name in project.leftovers()]
    seen.problems += project.others(patience_s=10)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="kills of each stage; three times as many of dvc repro")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background would ignore it
    with tempfile.TemporaryDirectory() as root:
        project = Project(Path(root), random.Random(options.seed))
        seconds = {}
        for stage in STAGES:
            if stage.name == "import_end":
                export_predictions(project)
            seconds[stage] = project.finish(command_of(stage))
        print(f"undisturbed: {sum(seconds.values()):.0f} s in {len(STAGES)} stages", flush=True)
        seen = []
        for stage, whole_s in seconds.items():
            seen.append(kill_stage(project, stage, whole_s=whole_s, rounds=options.rounds))
            print(seen[-1], flush=True)
        seen.append(kill_dvc(project, whole_s=sum(seconds.values()), rounds=3 * options.rounds))
        print(seen[-1], flush=True)
    problems = [problem for one in seen for problem in one.problems]
    print(f"{sum(len(one.kills) for one in seen)} kills, {len(problems)} problems")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
