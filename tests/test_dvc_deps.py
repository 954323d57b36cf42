"""DVC does not follow imports: a stage's deps must list every module of ours that its script can import, no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antvisionps.params.fusion import FusionChoices

PROJECT = Path(__file__).parents[1]
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load((PROJECT / "dvc.yaml").read_text())["stages"]

PACKAGE_DATA = {Path("antvisionps/report/site"): Path("antvisionps/report/page.py")}
"""Folder of files that are no code → the module that reads them."""


def imported_files(path: Path) -> set[Path]:
    """Files of ours that this one imports itself: anywhere in it, but for `if TYPE_CHECKING`."""
    return {file for name in _imported_names(ast.parse(path.read_text())) for file in _files_run_by_import(name)}


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.orelse:
            yield from _imported_names(child)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"antvisionps[.\w]+", node.value)
    ):
        yield node.value  # importlib.import_module("antvisionps.…")
    for child in ast.iter_child_nodes(node):
        yield from _imported_names(child)


def _files_run_by_import(name: str) -> Iterator[Path]:
    """The module's file and the non-empty __init__.py of the packages around it."""
    parts = name.split(".")
    if parts[0] != "antvisionps":
        return
    for depth in range(1, len(parts) + 1):
        place = Path(*parts[:depth])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if (PROJECT / file).is_file() and (PROJECT / file).stat().st_size:
                yield file


def closure(script: Path) -> set[Path]:
    """The script and all files of ours that running it can import."""
    reached, todo = set(), {script}
    while todo:
        file = todo.pop()
        reached.add(file)
        todo |= imported_files(PROJECT / file) - reached
    return reached


def definition(stage: str) -> dict[str, Any]:
    """What runs, also where it stands under `do` of a foreach."""
    return STAGES[stage].get("do", STAGES[stage])


def scripts_of(stage: str) -> list[Path]:
    """What the stage runs, in that order."""
    command = definition(stage)["cmd"]
    scripts = re.findall(r"stages/\w+\.py", " ".join(command) if isinstance(command, list) else command)
    assert scripts, f"stage {stage}: expected a script of stages/ in its cmd, got none"
    return [Path(script) for script in scripts]


def files_of(stage: str) -> set[Path]:
    return set().union(*(closure(script) for script in scripts_of(stage)))


def code_deps(stage: str) -> set[Path]:
    """Deps below stages/ and antvisionps/, which stand there without variables."""
    return {dep for dep in deps_of(stage) if dep.parts[0] in ("stages", "antvisionps") and dep not in PACKAGE_DATA}


def deps_of(stage: str) -> set[Path]:
    deps = [next(iter(dep)) if isinstance(dep, dict) else dep for dep in definition(stage)["deps"]]
    return {Path(dep) for dep in deps}


def covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_can_import_stands_in_its_deps(stage):
    deps = code_deps(stage)
    missing = sorted(str(file) for file in files_of(stage) if not any(covers(dep, file) for dep in deps))
    assert not missing, f"add to the deps of stage {stage} in dvc.yaml:\n" + "\n".join(
        f"      - {file}" for file in missing
    )


@pytest.mark.parametrize("stage", STAGES)
def test_no_dep_is_a_module_that_the_stage_never_imports(stage):
    files = files_of(stage)
    idle = sorted(str(dep) for dep in code_deps(stage) if not any(covers(dep, file) for file in files))
    assert not idle, f"remove from the deps of stage {stage} in dvc.yaml, or retraining comes for nothing: {idle}"


@pytest.mark.parametrize("stage", STAGES)
def test_package_data_stands_in_the_deps_of_the_stages_that_read_it(stage):
    read = {folder for folder, module in PACKAGE_DATA.items() if module in files_of(stage)}
    assert deps_of(stage) & PACKAGE_DATA.keys() == read


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dep_exists(stage):
    assert [str(dep) for dep in code_deps(stage) if not (PROJECT / dep).exists()] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_script_of_its_name_first(stage):
    assert scripts_of(stage)[0].stem == stage


def test_calibrate_depends_on_the_choices_of_fuse_that_it_takes():
    taken = {f"fuse.{name}" for name in FusionChoices.model_fields}
    assert {param for param in definition("calibrate")["params"] if param.startswith("fuse.")} == taken


@pytest.mark.parametrize("stage", STAGES)
def test_how_to_run_is_no_stages_param(stage):
    params = definition(stage).get("params", [])
    assert not [param for param in params if str(param).split(".")[0] == "runtime"]


def test_imports_are_found_in_functions_but_not_for_type_checking(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from antvisionps.params.whole import Params\n"
        "def main():\n    from antvisionps import categories\n    import antvisionps.core.atomic\n"
        "    importlib.import_module('antvisionps.core.stage')\n"
    )
    found = {str(file) for file in imported_files(script)}
    assert found == {"antvisionps/categories.py", "antvisionps/atomic.py", "antvisionps/stage.py"}
