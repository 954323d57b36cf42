"""DVC does not follow imports: a stage's deps must cover every module of ours that its script can import."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from antvisionps.params.fusion import FusionChoices

PROJECT = Path(__file__).parents[1]
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["stages"]

OF_THE_FUSION = ("fusion", "evaluation", "pipeline", "report", "params/fusion.py", "params/whole.py")
"""Below antvisionps: what changes without a model's being trained again."""


@functools.cache
def imported_files(path: Path) -> frozenset[Path]:
    """Files of ours that this one imports itself: anywhere in it, but for `if TYPE_CHECKING`."""
    return frozenset(
        file for name in _imported_names(ast.parse(path.read_text())) for file in _files_run_by_import(name)
    )


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.orelse:
            yield from _imported_names(child)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and re.fullmatch(r"antvisionps(\.\w+)+", str(node.value)):
        yield str(node.value)  # importlib.import_module("antvisionps.…")
    for child in ast.iter_child_nodes(node):
        yield from _imported_names(child)


def _files_run_by_import(name: str) -> Iterator[Path]:
    """The module's file and the non-empty __init__.py of the packages around it, but for that of antvisionps itself,
    which imports nothing until a user asks for a public name, as no module does (test_import_direction.py)."""
    parts = name.split(".")
    if parts[0] != "antvisionps":
        return
    for depth in range(2, len(parts) + 1):
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


def code_deps(stage: str) -> list[Path]:
    """Deps below stages/ and antvisionps/, which stand there without variables."""
    deps = [Path(dep) for dep in STAGES[stage]["deps"]]
    return [dep for dep in deps if dep.parts[0] in ("stages", "antvisionps")]


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_can_import_stands_in_its_deps(stage):
    name = stage.removesuffix("_shared")
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"stages.{name}"]
    script = Path("stages", f"{name}.py")
    deps = code_deps(stage)
    missing = sorted(str(file) for file in closure(script) if not any(file.is_relative_to(dep) for dep in deps))
    assert not missing, f"add to the deps of stage {stage} in dvc.yaml:\n" + "\n".join(missing)
    assert [str(dep) for dep in deps if not (PROJECT / dep).exists()] == []


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.startswith("train_")])
def test_no_training_depends_on_what_a_fusion_engineer_touches(stage):
    touched = [Path("antvisionps", place) for place in OF_THE_FUSION]
    assert all((PROJECT / place).exists() for place in touched)
    deps = code_deps(stage)
    assert [dep for dep in deps for place in touched if dep.is_relative_to(place) or place.is_relative_to(dep)] == []


def test_calibrate_depends_on_the_choices_of_fuse_that_it_takes():
    params = STAGES["calibrate"]["params"]
    expected = {f"fuse.{name}" for name in FusionChoices.model_fields}
    assert {param for param in params if param.startswith("fuse.")} == expected


def test_how_to_run_is_no_stages_param():
    params = [str(param) for stage in STAGES.values() for param in stage.get("params", [])]
    assert "fuse" in params
    assert [param for param in params if param.split(".")[0] == "runtime"] == []
