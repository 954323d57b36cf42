"""Copies of the project that run by DVC on a few tiny pictures and networks."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from antvisionps.fusion.system import load_kernels
from tests.tiny_run import PROJECT, shrink


def copy_project(folder: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and not name.startswith(("tests/", "metrics/", "docs/tables/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    lend_kernels(PROJECT, folder)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    shrink(params)
    params["runtime"]["checkpoint_interval"] = 2
    yaml.dump(params, folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    commit(folder)
    return folder


def lend_kernels(project: Path, other: Path) -> None:
    """Gives a copy of the project the compiled code that numba keeps beside a module, which takes 10 s to make anew.
    That is of a module by its time of modification."""
    load_kernels()
    for compiled in (project / "antvisionps").rglob("__pycache__/*.nb[ci]"):
        module = compiled.parents[1] / f"{compiled.name.partition('.')[0]}.py"
        if module.exists():  # numba leaves the code of modules that are no more
            place = other / compiled.relative_to(project)
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, place)
            shutil.copystat(module, other / module.relative_to(project))


def environment() -> dict[str, str]:
    # Stages call `python`: the one that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def make_repro(folder: Path) -> None:
    """In the environment of the tests."""
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".setup-done").touch()
    done = subprocess.run(["make", "repro"], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def commit(folder: Path) -> None:
    for arguments in (["add", "--all"], ["commit", "--quiet", "--no-verify", "--message", "State"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
